#!lua flags=no-writes
-- Reads the changes of external usage of an organization on a day.
--
-- KEYS     the changes (keep_change.lua)
-- ARGV     the maximum number of changes that are kept of a source
-- Returns  consecutive MessagePack values: the clock in seconds and microseconds as TIME gives them; whether there
--          were more changes than are kept; each change that is kept, by source

local time = redis.call('TIME')
local max, sources = tonumber(ARGV[1]), { 'manual', 'reconciled' }
local made, is_truncated, fields = redis.call('HMGET', KEYS[1], unpack(sources)), false, {}
for at, source in ipairs(sources) do
  local of_source = tonumber(made[at] or 0)
  is_truncated = is_truncated or of_source > max
  for number = 1, math.min(of_source, max) do
    fields[#fields + 1] = source .. ':' .. number
  end
end
local changes = #fields > 0 and redis.call('HMGET', KEYS[1], unpack(fields)) or {}
return cmsgpack.pack(time[1], time[2], is_truncated, unpack(changes))
