#!lua flags=no-writes
-- Reads the counters of pools, for the quota of an organization.
--
-- KEYS     the counters of each pool on the day that the caller means
-- Returns {seconds, micros, answer…}: the clock, and for each pool
--         'used,free_requests,billed_tokens,billed_requests,closed'

local time = redis.call('TIME')
local answers = { time[1], time[2] }
for at, key in ipairs(KEYS) do
  local held = redis.call('HMGET', key, 'used', 'free_requests', 'billed_tokens', 'billed_requests', 'closed')
  for field = 1, 5 do
    held[field] = held[field] or '0'
  end
  answers[at + 2] = table.concat(held, ',')
end
return answers
