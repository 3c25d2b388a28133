#!lua
-- Checks whether Redis would run a decision. The script may write, so Redis refuses it whenever it would refuse a
-- decision; and it checks each permission that a decision needs. Writes nothing.
--
-- KEYS     a key with the prefix; if one server has all keys, also one in another hash slot, which a node of a
--          cluster refuses
-- ARGV     commands that are sent outside scripts; a subcommand as 'command|subcommand'
-- Returns  consecutive MessagePack values: the clock in seconds and microseconds as TIME gives them, or two empty
--          strings if the user may not run TIME; then the commands that the user may not run

local key, missing = KEYS[1], {}

local function require_permission(name, ...)
  if not redis.acl_check_cmd(...) then
    missing[#missing + 1] = name
  end
end

require_permission('get', 'get', key)
require_permission('set', 'set', key, '', 'exat', '1')
require_permission('hmget', 'hmget', key, 'field')
require_permission('hset', 'hset', key, 'field', 'value')
require_permission('expireat', 'expireat', key, '1')
require_permission('evalsha', 'evalsha', '', '0')
require_permission('eval', 'eval', '', '0')
for _, name in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(name, '[^|]+') do
    words[#words + 1] = word
  end
  require_permission(name, unpack(words))
end
require_permission('time', 'time')
local time = missing[#missing] == 'time' and { '', '' } or redis.call('TIME')
return cmsgpack.pack(time[1], time[2], unpack(missing))
