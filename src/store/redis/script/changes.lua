#!lua flags=no-writes
-- Reads the changes of external usage of an organization on a day.
--
-- KEYS     the changes (keep_change.lua)
-- ARGV     the maximum number of changes that are kept
-- Returns  consecutive MessagePack values: the clock in seconds and microseconds as TIME gives them; whether there
--          were more changes than are kept; each change that is kept

local time = redis.call('TIME')
local made, max = tonumber(redis.call('HMGET', KEYS[1], 'made')[1] or 0), tonumber(ARGV[1])
local numbers = {}
for number = 1, math.min(made, max) do
  numbers[number] = number
end
local changes = #numbers > 0 and redis.call('HMGET', KEYS[1], unpack(numbers)) or {}
return cmsgpack.pack(time[1], time[2], made > max, unpack(changes))
