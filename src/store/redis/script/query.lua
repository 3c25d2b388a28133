#!lua flags=no-writes
-- Reads the counters of pools, for the quota of an organization.
--
-- KEYS     the counters of each pool on the day that the caller means; then the requests of that day
-- ARGV     for each pool the field of its tokens that are held
-- Returns {seconds, micros, counters…, held…}: the clock, and for each pool what is kept: see
-- pools.lua and reservations.lua

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
