#!lua
-- Keeps a change of external usage, unless the day has as many of its source as are kept.
--
-- KEYS     the changes of an organization on a day: a hash of each change by its source and its number, such as
--          'manual:1', from 1 on. The field of a source, such as 'manual', has the number of its changes, but at
--          most one more than are kept
-- ARGV  1  the change
--       2  its source: 'manual' or 'reconciled'
--       3  the maximum number of changes that are kept of a source
--       4  when the key expires, in seconds since 1970
-- Returns  nothing

local source, max = ARGV[2], tonumber(ARGV[3])
local made = tonumber(redis.call('HMGET', KEYS[1], source)[1] or 0)
if made < max then
  redis.call('HSET', KEYS[1], source, made + 1, source .. ':' .. made + 1, ARGV[1])
elseif made == max then
  redis.call('HSET', KEYS[1], source, max + 1)
end
redis.call('EXPIREAT', KEYS[1], ARGV[4])
