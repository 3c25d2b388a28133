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
  -- All there, or none: what has gaps is not ours, and its empty fields are told as such.
  local none = not (held[1] or held[2] or held[3] or held[4] or held[5])
  for field = 1, 5 do
    held[field] = held[field] or (none and '0' or '')
  end
  answers[at + 2] = table.concat(held, ',')
end
return answers
