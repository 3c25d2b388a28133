-- A batch while it is decided, its keys, and the writes that it plans.
--
-- KEYS, ARGV  call.lua

local TODAY, YESTERDAY = 1, 2

-- A batch while it is decided:
--   args            its values
--   fields, classes, ids, operations   the position before each section in args
--   rows, pools     by their numbers; the shares are after the pools
--   reservations    only if it has lookups (reservations.lua)
--   carries         whether its FREE reservations are carried into tomorrow's pools
--   has_external    whether a pool has external usage
--   is_stale        whether a pool's record is older than its snapshot
--   row_counts, other_rows, more_rows   usage.lua
--   writes          the writes to hashes: key, changes, expiry time, in turn

-- The key that was read last. If a batch fails before its first write, the value of this key is the cause.
local reading

local function usage_key(batch, day)
  local first = batch.args[FIRST_KEY]
  return KEYS[day == TODAY and first or first + 2 + batch.args[N_POOLS] + batch.args[N_SHARES]]
end

local function requests_key(batch, day)
  local first = batch.args[FIRST_KEY]
  return KEYS[day == TODAY and first + 1 or first + 3 + batch.args[N_POOLS] + batch.args[N_SHARES]]
end

-- A missing permission must show before the first write.
local function assert_allowed(command, ...)
  if not redis.acl_check_cmd(command, ...) then
    error({ err = 'NOPERM the user may not ' .. command .. ' ' .. (...) })
  end
end

-- Plans a write of fields and values to a hash; the first write to a hash also sets when it expires.
local function plan_write(batch, key, changes, expires_at)
  assert_allowed('HSET', key, 'field', 'value')
  if expires_at then
    assert_allowed('EXPIREAT', key, expires_at)
  end
  local writes, n = batch.writes, batch.n_writes
  writes[n + 1], writes[n + 2], writes[n + 3] = key, changes, expires_at or false
  batch.n_writes = n + 3
end

