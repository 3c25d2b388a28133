#!lua
-- Decides a batch of one organization, in its order, each decision on what the ones before it left.
-- The rules are those of docs/CONTRACT.md, "Reserve", "Settle" and "Release", and of src/domain,
-- which the property tests hold this script to.
--
-- KEYS  1  usage of today
--       …  the counters of today of each pool that the caller names
--       and, only where the batch has ids: requests of today, usage of yesterday, requests of yesterday
-- ARGV  1  five MessagePack arrays, one behind the other (src/store/redis/arguments.rs):
--       head     today's 00:00 UTC in seconds since 1970; how long usage is kept after its day, in
--                seconds; whether an overflow closes a pool until midnight; then for each pool its
--                encoded name and its allowance
--       fields   the usage rows of the batch: encoded project, ':', encoded model
--       kinds    what the Reserves ask for, each kind once: the number of its pool, or the letter of
--                the reason for which it is not eligible; the letter of its workload; its row's number
--       ids      the ids, as often as they occur
--       items    the batch; an id is the next of `ids`
--                kind tokens      reserve without an id
--                -1 kind tokens   reserve with an id: counted and remembered
--                -2 kind tokens   the same, but nothing is written
--                -3 kind tokens   reserve without an id, but nothing is written
--                -4 tokens        settle an id
--                -5               release an id
--
-- Returns MessagePack values, one behind the other (src/store/redis/reply.rs): the clock in seconds and
-- microseconds as TIME gives them, and
--       'day'             it is another day here; nothing was written
--       'pools', name…    name these pools too; nothing was written
--       'done', answer…   an answer for each item:
--         verdict, used                                   reserve; used: 0 where not eligible
--         'r', verdict, pool, used                        reserve, replayed; pool: '' where not eligible
--         's', verdict, reserved_as, replayed, pool, used settle; used: false for one of yesterday
--         'v', tokens, replayed, pool, used               release
--         'e', 'fields' | 'released' | 'settled' | 'unknown' | 'full'
--         'a', tokens                                     settled with another amount before
--
-- A verdict is a letter: F is free, any other a reason for being billed (src/store/redis/letters.rs).
-- A pool's counters are 'used free_requests billed_tokens billed_requests closed'.
-- A usage row is 'free_tokens billed_tokens free_requests billed_requests'; one of zeros is no row.
-- A reservation, under its id, is 'state class:tokens' without the space. state: the verdict; behind it
-- 's' and the settled verdict, or 'r' where it was released. A settled one ends with ':actual tokens'.
-- class: the number of 'pool:workload:row', so that a reservation is short whatever the names are.
-- These numbers are in the same hash, under fields that no id can have, since they begin with a control
-- character: \1text has the number, \1number the text, \1 the last number.
-- The first write to a hash adds a row or a class, and only such writes set when it expires.

local DAY = 86400
local MAX = 9007199254740991 -- 2^53 - 1
local RECORD = '^([FOZEPJWTMCXD])([sr]?)([FOZEPJWTMCXD]?)(%d+):(%d+):?(%d*)$'
local FREE, CLOSED, EXCEEDED, DAY_CLOSED = 'F', 'C', 'X', 'D'
local TODAY, YESTERDAY = 1, 2

local time = redis.call('TIME')
local head, fields, kinds, ids, items = cmsgpack.unpack(ARGV[1])
local midnight, retention, closes = head[1], head[2], head[3]
local now = tonumber(time[1])
if now < midnight or now >= midnight + DAY then
  return cmsgpack.pack(time[1], time[2], 'day')
end

-- Lua's stack bounds how many values one call takes: that must show now, not between two writes.
if #ids > 512 or #kinds > 3 * 512 then
  error({ err = 'ERR a batch is too large' })
end

local pool_count = (#head - 3) / 2
local usage_keys = { KEYS[1], KEYS[pool_count + 3] }
local request_keys = { KEYS[pool_count + 2], KEYS[pool_count + 4] }

local function corrupt(key, field)
  error({ err = 'CORRUPT ' .. key .. ' ' .. field })
end

-- Four amounts, as texts of digits.
local function amounts(key, field, a, b, c, d)
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if not (a and b and c and d) or a > MAX or b > MAX or c > MAX or d > MAX then
    corrupt(key, field)
  end
  return a, b, c, d
end

-- What was read, with what the batch changed so far. Nothing is written before the whole batch is
-- judged.

local pools, unnamed_pools = {}, {}

local function pool_of(name)
  local pool = pools[name]
  if pool then
    return pool
  end
  pool = { used = 0, free = 0, billed = 0, billed_requests = 0, allowance = 0, closed = false }
  pools[name] = pool
  for at = 1, pool_count do
    if head[2 + 2 * at] == name then
      pool.key, pool.allowance = KEYS[1 + at], head[3 + 2 * at]
    end
  end
  if not pool.key then
    unnamed_pools[#unnamed_pools + 1] = name
    return pool
  end
  local held = redis.call('GET', pool.key)
  if held then
    local used, free, billed, requests, closed = string.match(held, '^(%d+) (%d+) (%d+) (%d+) ([01])$')
    pool.used, pool.free, pool.billed, pool.billed_requests = amounts(pool.key, 'counters', used, free, billed, requests)
    pool.closed = closed == '1'
  end
  return pool
end

local rows = { {}, {} }

local function read_rows(day, wanted)
  local key, read = usage_keys[day], rows[day]
  local held = redis.call('HMGET', key, unpack(wanted))
  for at = 1, #wanted do
    local field, row = wanted[at], { free = 0, billed = 0, free_requests = 0, billed_requests = 0 }
    if held[at] then
      local free, billed, frees, billeds = string.match(held[at], '^(%d+) (%d+) (%d+) (%d+)$')
      row.free, row.billed, row.free_requests, row.billed_requests = amounts(key, field, free, billed, frees, billeds)
    else
      row.is_new = true
    end
    read[field] = row
  end
end

local asked = {}
for at = 1, #kinds / 3 do
  local target, field = kinds[3 * at - 2], fields[kinds[3 * at]]
  local kind = { workload = kinds[3 * at - 1], field = field, name = '' }
  if type(target) == 'number' then
    kind.name = head[2 + 2 * target]
    kind.pool = pool_of(kind.name)
  else
    kind.verdict = target
  end
  asked[at] = kind
end

-- The reservations, and what their classes' numbers mean: 'pool:workload:row'.

local reservations, last_class = {}, 0
local classes = { {}, {} }

local function take_in(day, id, held)
  local verdict, state, settled_as, class, tokens, actual = string.match(held, RECORD)
  if not verdict or (state == 's') ~= (settled_as ~= '') or (state == 's') ~= (actual ~= '') then
    corrupt(request_keys[day], id)
  end
  reservations[id] = {
    id = id, day = day, verdict = verdict, state = state, settled_as = settled_as, class = class,
    tokens = tonumber(tokens), actual = tonumber(actual),
  }
end

local function read_classes(day, wanted)
  local held = redis.call('HMGET', request_keys[day], unpack(wanted))
  for at = 1, #wanted do
    local pool, same = string.match(held[at] or '', '^([^:]*):(%l:.+)$')
    if not pool then
      corrupt(request_keys[day], wanted[at])
    end
    classes[day][string.sub(wanted[at], 2)] = { pool = pool, same = same, field = string.sub(same, 3) }
  end
end

if #ids > 0 then
  local wanted, count = {}, #ids
  for at = 1, count do
    wanted[at] = ids[at]
  end
  wanted[count + 1] = '\1'
  for at = 1, #asked do
    local kind = asked[at]
    kind.same = kind.workload .. ':' .. kind.field
    kind.class_field = '\1' .. kind.name .. ':' .. kind.same
    wanted[count + 1 + at] = kind.class_field
  end
  local held = redis.call('HMGET', request_keys[TODAY], unpack(wanted))
  last_class = tonumber(held[count + 1] or 0) or corrupt(request_keys[TODAY], 'classes')
  for at = 1, #asked do
    local kind = asked[at]
    kind.class = held[count + 1 + at]
    if kind.class then
      classes[TODAY][kind.class] = { pool = kind.name, same = kind.same, field = kind.field }
    end
  end
  local missing = {}
  for at = 1, count do
    if held[at] then
      take_in(TODAY, ids[at], held[at])
    else
      missing[#missing + 1] = ids[at]
    end
  end
  if #missing > 0 then
    held = redis.call('HMGET', request_keys[YESTERDAY], unpack(missing))
    for at = 1, #missing do
      if held[at] then
        take_in(YESTERDAY, missing[at], held[at])
      end
    end
  end
  -- What was reserved before may be of other kinds than what is asked now.
  local more = { {}, {} }
  for _, it in pairs(reservations) do
    if not classes[it.day][it.class] then
      classes[it.day][it.class] = true
      more[it.day][#more[it.day] + 1] = '\1' .. it.class
    end
  end
  for day = TODAY, YESTERDAY do
    if #more[day] > 0 then
      read_classes(day, more[day])
    end
  end
  more = { {}, {} }
  for at = 1, #fields do
    rows[TODAY][fields[at]] = true
  end
  for _, it in pairs(reservations) do
    local class = classes[it.day][it.class]
    it.pool, it.same, it.field = class.pool, class.same, class.field
    if not rows[it.day][it.field] then
      rows[it.day][it.field] = true
      more[it.day][#more[it.day] + 1] = it.field
    end
  end
  for day = TODAY, YESTERDAY do
    if #more[day] > 0 then
      read_rows(day, more[day])
    end
  end
end
if #fields > 0 then
  read_rows(TODAY, fields)
  for at = 1, #asked do
    asked[at].row = rows[TODAY][asked[at].field]
  end
end

-- The decisions: src/domain/pool.rs. Sums are compared as differences, which are exact where a sum would
-- pass 2^53.

local answers, told = { time[1], time[2], 'done' }, 3

local function answer(...)
  for at = 1, select('#', ...) do
    told = told + 1
    answers[told] = select(at, ...)
  end
end

local function figures(held)
  if held.pool == '' then
    return '', 0
  end
  return held.pool, pool_of(held.pool).used
end

local function figures_on_its_day(held)
  if held.day == YESTERDAY and held.pool ~= '' then
    return held.pool, false
  end
  return figures(held)
end

local function judge_settle(pool, held, actual)
  local verdict = held.verdict
  if held.day == YESTERDAY then
    return verdict == FREE and actual > held.tokens and DAY_CLOSED or verdict
  elseif not pool then
    return verdict
  elseif verdict == FREE then
    -- Not below 0, should the counters have been lost since: what is held is not granted on top.
    local others = math.max(0, pool.used - held.tokens)
    local fits = actual <= held.tokens or actual <= pool.allowance - others
    return fits and FREE or EXCEEDED
  elseif verdict == EXCEEDED and not (closes and pool.closed) and actual <= pool.allowance - pool.used then
    return FREE
  end
  return verdict
end

-- Counts a request in a row and, where it is eligible and of today, in its pool; with -1, takes it back.
local function count(pool, row, verdict, tokens, sign)
  row.changed = true
  if pool then
    pool.changed = true
  end
  if verdict == FREE then
    row.free, row.free_requests = math.max(0, row.free + sign * tokens), math.max(0, row.free_requests + sign)
    if pool then
      pool.used, pool.free = math.max(0, pool.used + sign * tokens), math.max(0, pool.free + sign)
    end
  else
    row.billed = math.max(0, row.billed + sign * tokens)
    row.billed_requests = math.max(0, row.billed_requests + sign)
    if pool then
      pool.billed = math.max(0, pool.billed + sign * tokens)
      pool.billed_requests = math.max(0, pool.billed_requests + sign)
    end
  end
end

-- Whether a counter would pass its maximum where a request of these tokens is counted, after what
-- `returned` says was taken back.
local function is_full(pool, row, verdict, tokens, returned)
  if verdict == FREE then
    return tokens > MAX - (row.free - returned) or pool and tokens > MAX - (pool.used - returned)
  end
  return tokens > MAX - (row.billed - returned) or pool and tokens > MAX - (pool.billed - returned)
end

local function reserve(kind, id, tokens, writes)
  local pool, verdict, row = kind.pool, kind.verdict, kind.row
  if pool then
    if closes and pool.closed then
      verdict = CLOSED
    else
      verdict = tokens <= pool.allowance - pool.used and FREE or EXCEEDED
    end
  end
  if writes then
    if is_full(pool, row, verdict, tokens, 0) then
      return answer('e', 'full')
    end
    count(pool, row, verdict, tokens, 1)
    if closes and verdict == EXCEEDED then
      pool.closed = true
    end
    if id then
      reservations[id] = {
        id = id, day = TODAY, verdict = verdict, state = '', settled_as = '', kind = kind,
        tokens = tokens, pool = kind.name, same = kind.same, field = kind.field, changed = true,
      }
    end
  end
  answers[told + 1], answers[told + 2] = verdict, pool and pool.used or 0
  told = told + 2
end

local function reserve_again(held, kind, tokens)
  if held.tokens ~= tokens or held.same ~= kind.same then
    return answer('e', 'fields')
  elseif held.state == 'r' then
    return answer('e', 'released')
  end
  answer('r', held.verdict, figures(held))
end

local function settle(held, actual)
  if not held then
    return answer('e', 'unknown')
  elseif held.state == 'r' then
    return answer('e', 'released')
  elseif held.state == 's' and held.actual ~= actual then
    return answer('a', held.actual)
  end
  local replayed = held.state == 's'
  if not replayed then
    local row = rows[held.day][held.field]
    local pool = held.day == TODAY and held.pool ~= '' and pool_of(held.pool) or nil
    local verdict = judge_settle(pool, held, actual)
    local same_side = (verdict == FREE) == (held.verdict == FREE)
    if is_full(pool, row, verdict, actual, same_side and held.tokens or 0) then
      return answer('e', 'full')
    end
    count(pool, row, held.verdict, held.tokens, -1)
    count(pool, row, verdict, actual, 1)
    if pool and closes and verdict == EXCEEDED then
      pool.closed = true
    end
    held.state, held.settled_as, held.actual, held.changed = 's', verdict, actual, true
  end
  answer('s', held.settled_as, held.verdict, replayed, figures_on_its_day(held))
end

local function release(held)
  if not held then
    return answer('e', 'unknown')
  elseif held.state == 's' then
    return answer('e', 'settled')
  end
  local replayed = held.state == 'r'
  if not replayed then
    local pool = held.day == TODAY and held.pool ~= '' and pool_of(held.pool) or nil
    count(pool, rows[held.day][held.field], held.verdict, held.tokens, -1)
    held.state, held.changed = 'r', true
  end
  answer('v', held.tokens, replayed, figures_on_its_day(held))
end

local at, next_id = 1, 0
while at <= #items do
  local item = items[at]
  if item > 0 then
    reserve(asked[item], nil, items[at + 1], true)
    at = at + 2
  elseif item == -3 then
    reserve(asked[items[at + 1]], nil, items[at + 2], false)
    at = at + 3
  else
    next_id = next_id + 1
    local id = ids[next_id]
    local held = reservations[id]
    if item == -4 then
      settle(held, items[at + 1])
      at = at + 2
    elseif item == -5 then
      release(held)
      at = at + 1
    else
      local kind, tokens = asked[items[at + 1]], items[at + 2]
      if held then
        reserve_again(held, kind, tokens)
      else
        reserve(kind, id, tokens, item == -1)
      end
      at = at + 3
    end
  end
end
if #unnamed_pools > 0 then
  return cmsgpack.pack(time[1], time[2], 'pools', unpack(unnamed_pools))
end

-- Gathers what is to be written, and asks whether it may be: a right that is missing must show now.

local function may(command, ...)
  if not redis.acl_check_cmd(command, ...) then
    error({ err = 'NOPERM the user may not ' .. command .. ' ' .. (...) })
  end
end

local hashes = {}

local function write_hash(key, pairs_of_it, expires_at)
  if #pairs_of_it > 0 then
    hashes[#hashes + 1] = { key = key, pairs = pairs_of_it, expires_at = expires_at }
    may('HSET', key, 'field', 'value')
    if expires_at then
      may('EXPIREAT', key, expires_at)
    end
  end
end

local changed_pools = {}
for _, pool in pairs(pools) do
  if pool.changed then
    changed_pools[#changed_pools + 1] = pool
    may('SET', pool.key, 'counters', 'EXAT', midnight + DAY)
  end
end

local usage_expires_at = { midnight + DAY + retention, midnight + retention }
for day = TODAY, YESTERDAY do
  local changed, expires_at = {}, nil
  for field, row in pairs(rows[day]) do
    if row.changed then
      local n = #changed
      changed[n + 1] = field
      changed[n + 2] = string.format('%d %d %d %d', row.free, row.billed, row.free_requests, row.billed_requests)
      expires_at = row.is_new and usage_expires_at[day] or expires_at
    end
  end
  write_hash(usage_keys[day], changed, expires_at)
end

local changed, new_class = { {}, {} }, false
for _, held in pairs(reservations) do
  if held.changed then
    local kind, class = held.kind, held.class
    local to = changed[held.day]
    local n = #to
    if kind then
      class = kind.class
      if not class then
        last_class, new_class = last_class + 1, true
        class = tostring(last_class)
        kind.class = class
        to[n + 1], to[n + 2] = kind.class_field, class
        to[n + 3], to[n + 4] = '\1' .. class, string.sub(kind.class_field, 2)
        n = n + 4
      end
    end
    local record = held.verdict .. held.state .. held.settled_as .. class .. ':' .. string.format('%d', held.tokens)
    if held.state == 's' then
      record = record .. ':' .. string.format('%d', held.actual)
    end
    to[n + 1], to[n + 2] = held.id, record
  end
end
if new_class then
  local to = changed[TODAY]
  to[#to + 1] = '\1'
  to[#to + 1] = tostring(last_class)
end
write_hash(request_keys[TODAY], changed[TODAY], new_class and midnight + 2 * DAY)
write_hash(request_keys[YESTERDAY], changed[YESTERDAY], nil)

-- After this point everything must succeed: a script is atomic, but does not roll back.

for at = 1, #changed_pools do
  local it = changed_pools[at]
  local counters = string.format('%d %d %d %d %s', it.used, it.free, it.billed, it.billed_requests, it.closed and '1' or '0')
  redis.call('SET', it.key, counters, 'EXAT', midnight + DAY)
end
for at = 1, #hashes do
  local it = hashes[at]
  redis.call('HSET', it.key, unpack(it.pairs))
  if it.expires_at then
    redis.call('EXPIREAT', it.key, it.expires_at)
  end
end
return cmsgpack.pack(unpack(answers))
