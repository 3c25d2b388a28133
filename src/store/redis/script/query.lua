#!lua flags=no-writes
-- Reads the records and the held tokens of pools.
--
-- KEYS     the record of each pool on a day; then the requests of that day
-- ARGV     for each pool, the field of its held tokens
-- Returns  {seconds, micros, record…, held…}: the clock as TIME gives it, each pool's record (pools.lua) and held
--          tokens (reservations.lua)

local time = redis.call('TIME')
local answers = { time[1], time[2] }
for at = 1, #ARGV do
  answers[at + 2] = redis.call('GET', KEYS[at])
end
local held = #ARGV > 0 and redis.call('HMGET', KEYS[#KEYS], unpack(ARGV)) or {}
for at = 1, #held do
  answers[#ARGV + 2 + at] = held[at]
end
return answers
