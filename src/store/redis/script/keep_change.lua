#!lua
-- Keeps a change of external usage, unless the day has as many as are kept.
--
-- KEYS     the changes of an organization on a day: a hash of each change by its number, from 1 on. The field
--          'made' has the number of changes, but at most one more than are kept
-- ARGV  1  the change
--       2  the maximum number of changes that are kept
--       3  when the key expires, in seconds since 1970
-- Returns  nothing

local made, max = tonumber(redis.call('HMGET', KEYS[1], 'made')[1] or 0), tonumber(ARGV[2])
if made < max then
  redis.call('HSET', KEYS[1], 'made', made + 1, made + 1, ARGV[1])
elseif made == max then
  redis.call('HSET', KEYS[1], 'made', max + 1)
end
redis.call('EXPIREAT', KEYS[1], ARGV[3])
