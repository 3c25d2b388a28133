#!lua flags=no-writes
-- Reads the records and the held tokens of pools, and the records of shares.
--
-- KEYS     the record of each pool and of each share on a day; then the requests of that day
-- ARGV     for each pool, the field of its held tokens
-- Returns  consecutive MessagePack values: the clock in seconds and microseconds as TIME gives them; for each pool its
--          record (pools.lua) and its held tokens (reservations.lua), or false; for each share its record, or false

local time = redis.call('TIME')
local answers = { time[1], time[2] }
local held = #ARGV > 0 and redis.call('HMGET', KEYS[#KEYS], unpack(ARGV))
for at = 1, #ARGV do
  answers[2 * at + 1], answers[2 * at + 2] = redis.call('GET', KEYS[at]), held[at]
end
for at = #ARGV + 1, #KEYS - 1 do
  answers[#answers + 1] = redis.call('GET', KEYS[at])
end
return cmsgpack.pack(unpack(answers))
