#!lua
-- Decides batches, each of one organization, each in its order, each decision on what the ones before
-- it left. The rules are those of docs/CONTRACT.md, "Reserve", "Settle" and "Release", and of
-- src/domain, which the property tests hold this script to.
--
-- The script is files one behind the other: plain.lua has what every batch needs, rows.lua chooses usage
-- rows, restore.lua has what is needed where Redis has lost writes, record.lua reads pools, past.lua has
-- what batches with ids need besides, batch.lua decides batch after batch. What a call does not need,
-- restore.lua and past.lua, is left out: to make the functions would cost more than to decide. A batch is
-- judged whole before its first write, and one that fails says so in its place and leaves the others alone.
--
-- What the script leaves behind for Lua's garbage collector costs more than what it computes: hence few
-- tables, arrays for counters, and reservations that stay texts until something is asked of them.
--
-- KEYS  batch after batch:
--       usage of today
--       the counters of today of each pool that the batch names
--       requests of today
--       and, only where it has ids: usage of yesterday, requests of yesterday
-- ARGV  1  today's 00:00 UTC, in seconds since 1970
--       2  how long usage is kept after its day, in seconds
--       3  the replica that asks: a number
--       4  the number of this call among all that the replica makes
--       5  how many usage rows an organization has on a day at most
--       …  for each batch, MessagePack values, one behind the other (src/store/redis/arguments.rs):
--       closes   whether an overflow closes a pool until midnight
--       key      the number of its first key
--       recurs   whether an id occurs more than once
--       four counts: of pools, rows, kinds and ids; then so many
--       pools    encoded name, allowance, and what the replica remembers: the turn of its last write, 0
--                where it knows of none; or, once it was told 'lost', the whole record
--       rows     the fields of usage rows: encoded project, ':', encoded model
--       kinds    what the Reserves ask for, each kind once: the number of its pool, or the letter of the
--                reason for which it is not eligible; the letter of its workload; the number of its row;
--                whether a pool lists its model
--       ids      as often as they occur; and where there are any, \1, then the class of each kind, then \2
--                and the encoded name of each pool
--                (where the replica tells what it remembers, \1 in any case)
--       items    the operations; an id is the next of `ids`
--                tokens       reserve without an id
--                -1 tokens    reserve with an id: counted and remembered
--                -2 tokens    the same, but nothing is written
--                -3 tokens    reserve without an id, but nothing is written
--                -4 tokens    settle an id
--                -5           release an id
--                -6 kind      no operation: what the Reserves that follow ask for; at first, kind 1
--
-- Returns MessagePack values, one behind the other (src/store/redis/reply.rs): the clock in seconds and
-- microseconds as TIME gives them, and
--   'day'                   it is another day here; nothing was written
-- or for each batch
--   'failed', why, key      nothing of the batch was written; the last key that was read
--   'torn', why             the batch failed between its writes, which can't be
--   'pools', number, name…  name these pools too; nothing of the batch was written
--   'lost', number, place…  writes of the replica to these pools are gone: tell what it remembers of
--                           them; nothing of the batch was written
--   'done', answer…, number, (place, turn, record)…
--      the pools that were written, for the replica to remember; before, an answer for each item:
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
--
-- A verdict is a letter: F is free, any other a reason for being billed (src/store/redis/letters.rs).
-- A usage row is MessagePack values, one behind the other: free tokens, billed tokens, free requests,
-- billed requests, and false. A row of zeros is no row.
-- A pool's record is MessagePack values too: whether it is closed, and for each replica that wrote to it:
-- its number, its last turn (of the call that wrote last: what Redis lost and what was written instead
-- never have the same), and what it counted: free tokens, billed tokens, free requests, billed requests,
-- below 0 where it took back what another counted. The sum of what all counted is what the pool has. A replica that finds an older turn of
-- its own than it was told knows that Redis lost writes, and of what all living replicas remember nothing
-- is lost: of each replica's part the one with the latest turn counts (docs/DURABILITY.md).
-- A reservation, under its id, is its state, its class, ':' and its tokens. state: the verdict; behind
-- it 's' and the settled verdict, or 'r' where it was released. Settled, it ends with ':' and the
-- actual tokens. Held, it ends with ':' where the row '(other)', '(other)' counts it. class: the number of
-- 'pool:workload:row', so that a reservation is short whatever the names are. These numbers are in the same hash, under fields that no id can be, since they begin with
-- a control character: \1class has the number, \1number the class, \1 the last number; and, where Redis
-- lost writes, behind a space, the last number before that (src/store/redis/decide/restore.lua).
-- The same hash has, under \2, how many usage rows the day has, '(other)', '(other)' not counted: all, a
-- space, and those of models that no pool listed; and under \2 and a pool's name the pool's tokens that
-- are held. Replicas that don't know these fields leave them alone.
-- The first write to a hash adds a row or a class, and only such writes set when it expires.

local DAY = 86400
local MAX = 9007199254740991 -- 2^53 - 1
local FREE, CLOSED, EXCEEDED = 'F', 'C', 'X'

-- Counters are an array: free tokens, billed tokens, free requests, billed requests, and
local IS_CLOSED, CHANGED, IS_NEW = 5, 6, 7
-- Those of a pool, besides: its allowance and key; the record that Redis has, and where the replica's part
-- begins in it; behind that place the four counters before the batch; by how much the batch changes the
-- tokens that are held.
local ALLOWANCE, KEY, RECORD, MINE, BEFORE, HELD_CHANGE = 8, 9, 10, 11, 11, 16

local time = redis.call('TIME')
local midnight, retention, me = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now, max_rows = tonumber(time[1]), tonumber(ARGV[5])
if now < midnight or now >= midnight + DAY then
  return cmsgpack.pack(time[1], time[2], 'day')
end

-- Between two calls there is room for turns of calls that come late.
local turn = tonumber(ARGV[4]) * 1024

-- The key that is being read. What fails before the first write fails for what is held there.
local reading, writes_began

-- What restore.lua has, where it is there.
local join, doubt_reservations

-- Where a batch's counts are: behind `closes`, `key` and `recurs`; and what comes behind them.
local COUNTS, NAMED = 3, 7

-- How many values a kind has.
local KIND = 4

-- A row's counters as they are held, or zeros.
local function counters(held)
  if not held then
    return { 0, 0, 0, 0, false, false, true }
  end
  local a, b, c, d, closed, more = cmsgpack.unpack(held)
  local whole = a % 1 + b % 1 + c % 1 + d % 1 == 0
  local known = a >= 0 and b >= 0 and c >= 0 and d >= 0 and a <= MAX and b <= MAX and c <= MAX and d <= MAX
  if not (whole and known) or closed ~= false or more ~= nil then
    error('foreign counters')
  end
  return { a, b, c, d, false, false, false }
end

-- The usage rows of the fields that stand in `named` from one place to another, in their order.
local function read_rows(key, named, from, to)
  reading = key
  local rows = redis.call('HMGET', key, unpack(named, from, to))
  for at = 1, to - from + 1 do
    rows[at] = counters(rows[at])
  end
  return rows
end

-- A right that is missing must show before the first write.
local function may(command, ...)
  if not redis.acl_check_cmd(command, ...) then
    error({ err = 'NOPERM the user may not ' .. command .. ' ' .. (...) })
  end
end

local function packed(it)
  return cmsgpack.pack(it[1], it[2], it[3], it[4], it[5])
end

local function may_write_hash(key, expires_at)
  may('HSET', key, 'field', 'value')
  if expires_at then
    may('EXPIREAT', key, expires_at)
  end
end

-- What is to be written of rows whose fields stand in `named` behind a place: fields and values in turn,
-- or nil; and when the key is to expire, where this is its first write.
local function changes_of(rows, key, named, behind, expires_at)
  local changes, n, any_new = nil, 0, false
  for at = 1, #rows do
    local row = rows[at]
    if row[CHANGED] then
      if changes then
        changes[n + 1], changes[n + 2] = named[behind + at], packed(row)
      else
        changes = { named[behind + at], packed(row) }
      end
      n = n + 2
      any_new = any_new or row[IS_NEW]
    end
  end
  if changes then
    expires_at = any_new and expires_at
    may_write_hash(key, expires_at)
    return changes, expires_at
  end
end

local function write_hash(key, changes, expires_at)
  redis.call('HSET', key, unpack(changes))
  if expires_at then
    redis.call('EXPIREAT', key, expires_at)
  end
end

