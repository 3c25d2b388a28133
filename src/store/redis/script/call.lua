#!lua
-- Decides batches, each of one organization. Each operation sees what the ones before it changed.
--
-- There are two scripts, and both begin with this file. The full one can decide any batch: batch.lua, rules.lua (the
-- rules, pure), recovery.lua (lost writes), pools.lua, usage.lua, reservation_rules.lua, reservations.lua and
-- decide.lua, in this order. The other, reserve.lua, decides Reserves in less time, and declines what is rare.
-- A batch is judged whole before its first write: a script is atomic, but does not roll back. If a batch fails, its
-- answer says so, and the others are decided.
--
-- Lua creates every function again at each call, with the variables that it captures. So names in capitals are no
-- variables: they are replaced by their values before Redis gets the script (src/store/redis/script/mod.rs). Garbage
-- costs more than computing. So there are few tables, and counters are arrays.
--
-- KEYS  for each batch:
--       usage and requests of today
--       the record of each pool that the batch names: of today, and then perhaps the same pools of tomorrow
--       the record of each share that it names, of today
--       if it has ids: usage and requests of yesterday
-- ARGV  1  consecutive MessagePack values: today's 00:00 UTC, in seconds since 1970; how long usage is kept after its
--          day, in seconds; the number of the calling replica; the number of this call among the replica's calls; the
--          maximum number of usage rows of an organization on a day
--       …  a batch each, as consecutive MessagePack values (layout: below)
--
-- Returns consecutive MessagePack values (src/store/redis/reply.rs): the clock in seconds and microseconds as TIME
-- gives them, and
--   'day'                     it is another day; nothing was written
-- or for each batch
--   'declined'                by reserve.lua: nothing of the batch was written; send it to the full script
--   'failed', why, key        nothing of the batch was written; key: the last one that was read
--   'partial', why            the batch failed between its writes, which is a bug
--   'pools', tomorrow, number, name…   the batch must name these pools and shares too, and tomorrow's pools if
--                             `tomorrow` is true; nothing of it was written
--   'stale'                   Redis lost writes of the replica to the batch's pools: send the snapshots; nothing of
--                             the batch was written
--   'external', number, (pool, tokens)…
--                             before 'done': the external usage of the batch's pools that have any, before its
--                             operations
--   'done', answer…, number, (place, seq, record)…
--   'peaks', number, (place, before, external)…
--                             after 'done', if the batch raised peaks: the pools, their peaks before the batch, and
--                             their external usage
-- where 'done' has an answer for each operation, then a snapshot of each pool and share that was written:
--      used                                             reserve: free
--      verdict, used                                    reserve: billed; used: 0 if not eligible
--      'r', verdict, pool, used, closed                 reserve, replayed; pool: '' if not eligible
--      's', verdict, reserved_as, replayed, pool, used, closed
--                                                       settle; if reserved yesterday, `used` is false and the
--                                                       last value
--      'v', tokens, replayed, pool, used, closed        release; `used` as for settle
--      'x', before, external, used, closed              external usage set: the figure before, what counts now
--      'c'                                              notice confirmed
--      'd', fields                                      reserved before with another project (p), model
--                                                       (m), tokens (t) or workload (w)
--      'e', 'released' | 'settled' | 'unknown' | 'full'
--      'e', 'outside' | 'within'                        settled before outside the programme, or within it
--      'a', tokens                                      settled before with another amount
-- A verdict is a letter: F is free, any other is a reason for being billed.

-- The layout of a batch (src/store/redis/script/request.rs): the header, then these sections:
--   header    whether an overflow closes a pool until midnight; the number of its first key; whether it has
--             whole snapshots; whether an id occurs more than once; whether all pools are read, not only those of
--             classes and reservations; from when on FREE reservations are carried into tomorrow's pools, in seconds
--             since 1970, or false; the numbers of pools, rows, classes, ids and lookups; how many of the pools, the
--             last ones, are tomorrow's: none, or the same as today's, in the same order; the number of shares
--   pools     encoded name; allowance; what Reserves get of it; how many counted tokens reach a further threshold, as
--             far as the replica knows; snapshot: the seq of the replica's last write, 0 if none, or the record
--   shares    the same: encoded name of the pool, ':', encoded project; the share, twice; 2^53; snapshot. Where
--             pools have numbers, shares have the ones after them
--   rows      the fields of usage rows: encoded project, ':', encoded model
--   classes   what Reserves have in common, each once: the number of the pool, or the code of the reason why it is
--             not eligible; the number of the row; whether a pool lists the model, or the number of the share
--   ids       in the order of their operations
--   lookups   the fields that are read with the ids: \1, the class fields, the fields of the pools' held tokens
-- and then the operations, of which each with an id takes the next of `ids`:
--   tokens                    reserve without an id
--   RESERVE_WITH_ID tokens    reserve with an id: counted and recorded
--   DRY_RUN_WITH_ID tokens    the same, but nothing is written
--   DRY_RUN tokens            reserve without an id, but nothing is written
--   SETTLE tokens             settle an id
--   SETTLE_OUTSIDE tokens     settle an id whose request ran outside the programme
--   RELEASE                   release an id
--   SET_EXTERNAL place source tokens   set the figure of the external usage of a pool: source 1 is manual, 2 reconciled
--   CONFIRM place half bit    record that the notice of a threshold was delivered: the half that has its bit, 0 or 1;
--                             if the bit is 0, nothing
--   SET_CLASS class           no operation: the class of the Reserves that follow; at first, class 1
local RESERVE, RESERVE_WITH_ID, DRY_RUN_WITH_ID, DRY_RUN = 0, -1, -2, -3
local SETTLE, SETTLE_OUTSIDE, RELEASE, SET_CLASS, SET_EXTERNAL, CONFIRM = -4, -5, -6, -7, -8, -9
local HEADER, POOL, CLASS = 13, 5, 3
local CLOSES, FIRST_KEY, HAS_SNAPSHOTS, HAS_DUPLICATES, READS_ALL, CARRIES_FROM = 1, 2, 3, 4, 5, 6
local N_POOLS, N_ROWS, N_CLASSES, N_IDS, N_LOOKUPS, N_TOMORROW, N_SHARES = 7, 8, 9, 10, 11, 12, 13

local DAY = 86400
local MAX = 9007199254740991 -- 2^53 - 1
local FREE, POOL_CLOSED, ALLOWANCE_EXCEEDED, DAY_CLOSED, RAN_OUTSIDE_PROGRAM = 'F', 'C', 'X', 'D', 'R'
local SHARE_EXCEEDED = 'H'

-- The number of values of a component: replica, seq, and four counters.
local COMPONENT = 6
-- The number of the component with the pool's external usage: no replica has it. Its four counters are the figure that
-- counts, 0, and the manual and the reconciled figure. So a release that takes it for a replica's counts it as used.
local EXTERNAL = 4503599627370496 -- 2^52
-- Three more that no replica has, with counters of 0: their seqs are the pool's peak, and the thresholds whose notices
-- were delivered, a bit for each, in two halves. A release that does not know them adds nothing for them.
local PEAK, NOTIFIED = 4503599627370497, 4503599627370498

local time = redis.call('TIME')
local midnight, retention, replica, call_number, max_rows = cmsgpack.unpack(ARGV[1])
local now = tonumber(time[1])
if now < midnight or now >= midnight + DAY then
  return cmsgpack.pack(time[1], time[2], 'day')
end

