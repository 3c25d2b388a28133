#!lua flags=no-writes
-- Reads the counters of pools, for the quota of an organization.
--
-- KEYS     the counters of each pool on the day that the caller means
-- Returns {seconds, micros, counters…}: the clock, and for each pool what is held: see decide/plain.lua

local time = redis.call('TIME')
local answers = { time[1], time[2] }
for at, key in ipairs(KEYS) do
  answers[at + 2] = redis.call('GET', key)
end
return answers
