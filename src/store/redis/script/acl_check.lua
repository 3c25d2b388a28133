#!lua
-- Asks Redis whether a decision would be let through: as it may write, Redis refuses it where it would refuse
-- a decision; and it checks each permission that a decision needs. Writes nothing.
--
-- KEYS     a key of the prefix; where one server has all keys, a second one of another hash slot, which a node of
--          a cluster refuses
-- ARGV     commands that are needed besides, outside scripts; a subcommand as 'command|subcommand'
-- Returns  {seconds, micros, command…}: the clock as TIME gives it, or two empty strings where the user may not
--          ask for it; the commands that the user may not run

local key, missing = KEYS[1], {}

local function require_right(name, ...)
  if not redis.acl_check_cmd(...) then
    missing[#missing + 1] = name
  end
end

-- 'cluster|slots' as a command has it: 'cluster', 'slots'.
local function split(name)
  local words = {}
  for word in string.gmatch(name, '[^|]+') do
    words[#words + 1] = word
  end
  return words
end

require_right('get', 'get', key)
require_right('set', 'set', key, '', 'exat', '1')
require_right('hmget', 'hmget', key, 'field')
require_right('hset', 'hset', key, 'field', 'value')
require_right('expireat', 'expireat', key, '1')
require_right('evalsha', 'evalsha', '', '0')
require_right('eval', 'eval', '', '0')
for _, name in ipairs(ARGV) do
  require_right(name, unpack(split(name)))
end
require_right('time', 'time')
local time = missing[#missing] == 'time' and { '', '' } or redis.call('TIME')
return { time[1], time[2], unpack(missing) }
