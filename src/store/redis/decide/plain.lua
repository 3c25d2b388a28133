#!lua
-- Decides batches, each of one organization, each in its order, each decision on what the ones before
-- it left. The rules are those of docs/CONTRACT.md, "Reserve", "Settle" and "Release", and of
-- src/domain, which the property tests hold this script to.
--
-- The script is three files, one behind the other: plain.lua has what every batch needs, past.lua what
-- those with ids need besides, batch.lua decides batch after batch. Where no batch has an id, past.lua
-- is left out: to make its functions would cost more than to decide. A batch is judged whole before its
-- first write, and one that fails says so in its place and leaves the others alone.
--
-- What the script leaves behind for Lua's garbage collector costs more than what it computes: hence few
-- tables, arrays for counters, and reservations that stay texts until something is asked of them.
--
-- KEYS  batch after batch:
--       usage of today
--       the counters of today of each pool that the batch names
--       and, only where it has ids: requests of today, usage of yesterday, requests of yesterday
-- ARGV  1  today's 00:00 UTC, in seconds since 1970
--       2  how long usage is kept after its day, in seconds
--       …  for each batch, MessagePack values, one behind the other (src/store/redis/arguments.rs):
--       closes   whether an overflow closes a pool until midnight
--       key      the number of its first key
--       named    an array: for each pool its encoded name and its allowance
--       fields   an array: the batch's usage rows: encoded project, ':', encoded model
--       kinds    an array: what the Reserves ask for, each kind once: the number of its pool, or the
--                letter of the reason for which it is not eligible; the letter of its workload; the
--                number of its row
--       ids      an array: the ids, as often as they occur
--       items    an array: the operations; an id is the next of `ids`
--                kind tokens      reserve without an id
--                -1 kind tokens   reserve with an id: counted and remembered
--                -2 kind tokens   the same, but nothing is written
--                -3 kind tokens   reserve without an id, but nothing is written
--                -4 tokens        settle an id
--                -5               release an id
--
-- Returns MessagePack values, one behind the other (src/store/redis/reply.rs): the clock in seconds and
-- microseconds as TIME gives them, and
--   'day'                   it is another day here; nothing was written
-- or for each batch
--   'failed', why           nothing of the batch was written, unless `why` is none of ours
--   'pools', number, name…  name these pools too; nothing of the batch was written
--   'done', answer…         an answer for each item:
--      verdict, used                                    reserve; used: 0 where not eligible
--      'r', verdict, pool, used                         reserve, replayed; pool: '' where not eligible
--      's', verdict, reserved_as, replayed, pool, used  settle; used: false for one of yesterday
--      'v', tokens, replayed, pool, used                release
--      'e', 'fields' | 'released' | 'settled' | 'unknown' | 'full'
--      'a', tokens                                      settled with another amount before
--
-- A verdict is a letter: F is free, any other a reason for being billed (src/store/redis/letters.rs).
-- A usage row is 'free_tokens billed_tokens free_requests billed_requests'; one of zeros is no row. A
-- pool's counters are the same and then, behind a space, '1' where the pool is closed, else '0'.
-- A reservation, under its id, is its state, its class, ':' and its tokens. state: the verdict; behind
-- it 's' and the settled verdict, or 'r' where it was released. Settled, it ends with ':' and the
-- actual tokens. class: the number of 'pool:workload:row', so that a reservation is short whatever the
-- names are. These numbers are in the same hash, under fields that no id can be, since they begin with
-- a control character: \1text has the number, \1number the text, \1 the last number.
-- The first write to a hash adds a row or a class, and only such writes set when it expires.

local DAY = 86400
local MAX = 9007199254740991 -- 2^53 - 1
local FREE, CLOSED, EXCEEDED = 'F', 'C', 'X'

-- Counters are an array: free tokens, billed tokens, free requests, billed requests, and
local CHANGED, IS_NEW = 5, 6
local IS_CLOSED, ALLOWANCE, KEY = 7, 8, 9 -- of a pool

local time = redis.call('TIME')
local midnight, retention = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(time[1])
if now < midnight or now >= midnight + DAY then
  return cmsgpack.pack(time[1], time[2], 'day')
end

local function corrupt(key, field)
  error({ err = 'CORRUPT ' .. key .. ' ' .. field })
end

local function counters(key, field, a, b, c, d)
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if not (a and b and c and d) or a > MAX or b > MAX or c > MAX or d > MAX then
    corrupt(key, field)
  end
  return { a, b, c, d, false, false, false, 0, key }
end

local function read_pool(key, allowance)
  local text, pool = redis.call('GET', key), nil
  if text then
    local a, b, c, d, closed = string.match(text, '^(%d+) (%d+) (%d+) (%d+) ([01])$')
    pool = counters(key, 'counters', a, b, c, d)
    pool[IS_CLOSED] = closed == '1'
  else
    pool = { 0, 0, 0, 0, false, true, false, 0, key }
  end
  pool[ALLOWANCE] = allowance
  return pool
end

-- The usage rows of these fields, in their order.
local function read_rows(key, fields)
  local rows = redis.call('HMGET', key, unpack(fields))
  for at = 1, #fields do
    if rows[at] then
      rows[at] = counters(key, fields[at], string.match(rows[at], '^(%d+) (%d+) (%d+) (%d+)$'))
    else
      rows[at] = { 0, 0, 0, 0, false, true }
    end
  end
  return rows
end

-- A Reserve whose id, if it has one, is new: the verdict, or nil where a counter would pass its maximum.
-- Sums are compared as differences, which are exact where a sum would pass 2^53.
local function reserve(closes, pool, row, reason, tokens, writes)
  local verdict, side = reason, 2
  if pool then
    if closes and pool[IS_CLOSED] then
      verdict = CLOSED
    elseif tokens <= pool[ALLOWANCE] - pool[1] then
      verdict, side = FREE, 1
    else
      verdict = EXCEEDED
    end
  end
  if writes then
    if tokens > MAX - row[side] or pool and tokens > MAX - pool[side] then
      return nil
    end
    row[side], row[side + 2], row[CHANGED] = row[side] + tokens, row[side + 2] + 1, true
    if pool then
      pool[side], pool[side + 2], pool[CHANGED] = pool[side] + tokens, pool[side + 2] + 1, true
      if closes and verdict == EXCEEDED then
        pool[IS_CLOSED] = true
      end
    end
  end
  return verdict
end

-- A right that is missing must show before the first write.
local function may(command, ...)
  if not redis.acl_check_cmd(command, ...) then
    error({ err = 'NOPERM the user may not ' .. command .. ' ' .. (...) })
  end
end

-- Lets a write to a hash wait for the others of the batch.
local function prepare(writes, key, changes, expires_at)
  may('HSET', key, 'field', 'value')
  if expires_at then
    may('EXPIREAT', key, expires_at)
  end
  local n = #writes
  writes[n + 1], writes[n + 2], writes[n + 3] = key, changes, expires_at or false
end

local function prepare_rows(writes, key, fields, rows, expires_at)
  local changes, n, any_new = {}, 0, false
  for at = 1, #fields do
    local row = rows[at]
    if row[CHANGED] then
      changes[n + 1], changes[n + 2] = fields[at], string.format('%d %d %d %d', row[1], row[2], row[3], row[4])
      n = n + 2
      any_new = any_new or row[IS_NEW]
    end
  end
  if n > 0 then
    prepare(writes, key, changes, any_new and expires_at)
  end
end

