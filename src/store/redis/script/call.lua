#!lua
-- Decides batches, each of one organization, each operation on what the ones before it left.
--
-- The script is these files one behind the other: call.lua (this one), rules.lua (the rules, pure), recovery.lua
-- (what Redis lost), pools.lua, usage.lua, reservations.lua, decide.lua. It is judged whole before the first
-- write: a script is atomic, but does not roll back. A batch that fails says so in its place, and leaves the
-- others alone.
--
-- Lua makes every function anew at each call, with each variable that it captures: hence names in capitals are no
-- variables, but replaced by their values before Redis gets the script (src/store/redis/script/mod.rs). And what a
-- call leaves behind for the garbage collector costs more than what it computes: hence few tables, arrays for
-- counters, and reservations that stay texts until something is asked of them.
--
-- KEYS  batch after batch:
--       usage and requests of today
--       the record of today of each pool that the batch names
--       and, only where it has ids: usage and requests of yesterday
-- ARGV  1  today's 00:00 UTC, in seconds since 1970
--       2  how long usage is kept after its day, in seconds
--       3  the replica that calls: a number
--       4  the number of this call among all that the replica makes
--       5  how many usage rows an organization has on a day at most
--       …  a batch each, as MessagePack values one behind the other (the layout: below)
--
-- Returns MessagePack values, one behind the other (src/store/redis/reply.rs): the clock in seconds and
-- microseconds as TIME gives them, and
--   'day'                     it is another day here; nothing was written
-- or for each batch
--   'failed', why, key        nothing of the batch was written; the last key that was read
--   'partial', why            the batch failed between its writes, which can't be
--   'pools', number, name…    name these pools too; nothing of the batch was written
--   'stale'                   Redis lost writes of the replica to the batch's pools: send the snapshots; nothing of
--                             the batch was written
--   'done', answer…, number, (place, seq, record)…
--      an answer for each operation, then a snapshot of each pool that was written:
--      used                                             reserve: it is free
--      verdict, used                                    reserve: it is not; used: 0 where not eligible
--      'r', verdict, pool, used, closed                 reserve, replayed; pool: '' where not eligible
--      's', verdict, reserved_as, replayed, pool, used, closed
--                                                       settle; for one of yesterday false ends the answer
--                                                       in place of `used`
--      'v', tokens, replayed, pool, used, closed        release; likewise
--      'd', letters                                     reserved before with another project (p), model
--                                                       (m), tokens (t) or workload (w)
--      'e', 'released' | 'settled' | 'unknown' | 'full'
--      'a', tokens                                      settled with another amount before
-- A verdict is a letter: F is free, any other a reason for being billed.

-- The layout of a batch (src/store/redis/script/request.rs): the header, then so many of each:
--   header    whether an overflow closes a pool until midnight; the number of its first key; whether it has
--             snapshots whole; whether every pool is read; whether an id occurs more than once; the numbers of
--             pools, rows, classes, ids and lookups
--   pools     encoded name, allowance, snapshot: the replica's last seq, 0 where it knows of none; or the record
--   rows      the fields of usage rows: encoded project, ':', encoded model
--   classes   what the Reserves ask for, each once: the number of its pool, or the letter of the reason for which
--             it is not eligible; the number of its row; whether a pool lists its model
--   ids       as often as they occur
--   lookups   what is read with the ids: \1, the field of each class, the field of each pool's held tokens
-- and then the operations; an id is the next of `ids`:
--   tokens                    reserve without an id
--   RESERVE_WITH_ID tokens    reserve with an id: counted and remembered
--   DRY_RUN_WITH_ID tokens    the same, but nothing is written
--   DRY_RUN tokens            reserve without an id, but nothing is written
--   SETTLE tokens             settle an id
--   RELEASE                   release an id
--   SET_CLASS class           no operation: what the Reserves that follow ask for; at first, class 1
local RESERVE, RESERVE_WITH_ID, DRY_RUN_WITH_ID, DRY_RUN, SETTLE, RELEASE, SET_CLASS = 0, -1, -2, -3, -4, -5, -6
local HEADER, POOL, CLASS = 10, 3, 3
local CLOSES, FIRST_KEY, HAS_SNAPSHOTS, READS_ALL, HAS_DUPLICATES = 1, 2, 3, 4, 5
local N_POOLS, N_ROWS, N_CLASSES, N_IDS, N_LOOKUPS = 6, 7, 8, 9, 10

local DAY = 86400
local TODAY, YESTERDAY = 1, 2

local time = redis.call('TIME')
local midnight = tonumber(ARGV[1])
if tonumber(time[1]) < midnight or tonumber(time[1]) >= midnight + DAY then
  return cmsgpack.pack(time[1], time[2], 'day')
end

-- What a batch is while it is decided:
--   args            its values; and behind which of them the parts begin: fields, classes, ids, operations
--   rows, pools     by their numbers
--   reservations    only where it has lookups (reservations.lua)
--   is_stale        whether a pool's record is older than its snapshot
--   row_counts, other_rows, more_rows   usage.lua
--   writes          what is to be written to hashes: key, changes, and when it expires, in turn

-- The key that is being read: what fails before the first write fails for what is there.
local reading

local function usage_key(batch, day)
  local first = batch.args[FIRST_KEY]
  return KEYS[day == TODAY and first or first + 2 + batch.args[N_POOLS]]
end

local function requests_key(batch, day)
  local first = batch.args[FIRST_KEY]
  return KEYS[day == TODAY and first + 1 or first + 3 + batch.args[N_POOLS]]
end

-- A permission that is missing must show before the first write.
local function assert_allowed(command, ...)
  if not redis.acl_check_cmd(command, ...) then
    error({ err = 'NOPERM the user may not ' .. command .. ' ' .. (...) })
  end
end

-- Plans the write of fields and values to a hash, and when it expires, where this is the first write to it.
local function plan_write(batch, key, changes, expires_at)
  assert_allowed('HSET', key, 'field', 'value')
  if expires_at then
    assert_allowed('EXPIREAT', key, expires_at)
  end
  local writes = batch.writes
  if writes then
    local n = #writes
    writes[n + 1], writes[n + 2], writes[n + 3] = key, changes, expires_at or false
  else
    batch.writes = { key, changes, expires_at or false }
  end
end

