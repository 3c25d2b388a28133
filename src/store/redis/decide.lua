#!lua
-- Decides a batch of one organization, in its order, each decision on what the ones before it left.
-- The rules are those of docs/CONTRACT.md, "Reserve", "Settle" and "Release", and of src/domain,
-- which the property tests hold this script to.
--
-- KEYS  1  usage of today          3  usage of yesterday
--       2  requests of today       4  requests of yesterday
--       5… the counters of today of each pool that the caller names
-- ARGV  1  today's 00:00 UTC, in seconds since 1970
--       2  how long usage is kept after its day, in seconds
--       3  '1' where an overflow closes a pool until midnight, else '0'
--       4  how many pools follow; then for each: its encoded name, its allowance
--       …  the batch, item after item:
--          'R' id target tokens workload row   reserve, counted and remembered
--          'L' id target tokens workload row   the same, but nothing is written
--          'S' id tokens                       settle
--          'V' id                              release
--          id: '' for none. target: the number of the pool, from 1, or the letter of the reason for
--          which the request is not eligible. row: the encoded project and model.
--
-- Returns {'day', seconds, micros}                 it is another day here; nothing was written
--      or {'pools', seconds, micros, name…}        name these pools too; nothing was written
--      or {'done', seconds, micros, answer…}       an answer for each item:
--         'R,verdict,replayed,pool,used'            replayed: '1' or '0'; pool: '' where not eligible
--         'S,verdict,reserved_as,replayed,pool,used'  used: '' for a reservation of yesterday
--         'V,tokens,replayed,pool,used'
--         'E,fields'  'E,released'  'E,settled'  'E,amount,tokens'  'E,unknown'  'E,full'
--
-- A verdict is a letter: F is free, any other a reason for being billed (src/store/redis/letters.rs).
-- A reservation is 'state:pool:tokens:workload:row' under its id. state: the verdict; behind it
-- 's', the settled verdict and the actual tokens, or 'r' where it was released.
-- A usage row is 'free_tokens billed_tokens free_requests billed_requests'; one of zeros is no row.

local DAY = 86400
local MAX = 9007199254740991 -- 2^53 - 1
local MAX_UNPACKED = 4000 -- even; Lua's stack bounds how many values one call takes
local VERDICT = '[FOZEPJWTMCXD]'
local FREE, CLOSED, EXCEEDED, DAY_CLOSED = 'F', 'C', 'X', 'D'
local COUNTS_IN_POOL = { [FREE] = true, [CLOSED] = true, [EXCEEDED] = true, [DAY_CLOSED] = true }

local usage_keys = { today = KEYS[1], yesterday = KEYS[3] }
local request_keys = { today = KEYS[2], yesterday = KEYS[4] }

local time = redis.call('TIME')
local midnight = tonumber(ARGV[1])
local now = tonumber(time[1])
if now < midnight or now >= midnight + DAY then
  return { 'day', time[1], time[2] }
end
local closes = ARGV[3] == '1'

local function corrupt(key, field)
  error({ err = 'CORRUPT ' .. key .. ' ' .. field })
end

local function number(text, key, field)
  local digits_only = text and #text <= 16 and string.find(text, '^%d+$')
  if not digits_only or tonumber(text) > MAX then
    corrupt(key, field)
  end
  return tonumber(text)
end

local function digits(amount)
  return string.format('%.0f', amount)
end

-- What was read, with what the batch changed so far. Nothing is written before the whole batch is
-- judged.

local pools, pool_names = {}, {}
for at = 1, tonumber(ARGV[4]) do
  local name = ARGV[3 + 2 * at]
  pool_names[at] = name
  pools[name] = { key = KEYS[4 + at], allowance = tonumber(ARGV[4 + 2 * at]) }
end

local unnamed_pools = {}

local function pool_of(name)
  local pool = pools[name]
  if not pool then
    unnamed_pools[#unnamed_pools + 1] = name
    pool = { allowance = 0, used = 0, free = 0, billed = 0, billed_requests = 0 }
    pools[name] = pool
  elseif not pool.used then
    local key = pool.key
    local held = redis.call('HMGET', key, 'used', 'free_requests', 'billed_tokens', 'billed_requests', 'closed')
    if not (held[1] or held[2] or held[3] or held[4] or held[5]) then
      held = { '0', '0', '0', '0', '0' }
    end
    pool.used = number(held[1], key, 'used')
    pool.free = number(held[2], key, 'free_requests')
    pool.billed = number(held[3], key, 'billed_tokens')
    pool.billed_requests = number(held[4], key, 'billed_requests')
    pool.closed = held[5] == '1'
  end
  return pool
end

local rows = { today = {}, yesterday = {} }

local function row_of(day, field)
  local row = rows[day][field]
  if not row then
    local held = redis.call('HGET', usage_keys[day], field)
    local text = held or '0 0 0 0'
    local free, billed, free_requests, billed_requests = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
    row = {
      free = number(free, usage_keys[day], field),
      billed = number(billed, usage_keys[day], field),
      free_requests = number(free_requests, usage_keys[day], field),
      billed_requests = number(billed_requests, usage_keys[day], field),
    }
    rows[day][field] = row
  end
  return row
end

local reservations = {}

local function reservation_of(id)
  local found = reservations[id]
  if found ~= nil then
    return found
  end
  for _, day in ipairs({ 'today', 'yesterday' }) do
    local held = redis.call('HGET', request_keys[day], id)
    if held then
      local verdict, state, rest, pool, fields =
        string.match(held, '^(' .. VERDICT .. ')([sr]?)([^:]*):([^:]*):(.*)$')
      if not verdict then
        corrupt(request_keys[day], id)
      end
      local tokens, row = string.match(fields, '^(%d+):%l:(.*)$')
      found = { day = day, verdict = verdict, state = state, pool = pool, fields = fields, row = row }
      found.tokens = number(tokens, request_keys[day], id)
      if state == 's' then
        found.settled_as, rest = string.match(rest, '^(' .. VERDICT .. ')(.*)$')
        found.actual = number(rest, request_keys[day], id)
      end
      break
    end
  end
  reservations[id] = found or false
  return found
end

-- The decisions: src/domain/pool.rs.

local function judge_reserve(pool, tokens)
  if closes and pool.closed then
    return CLOSED
  end
  -- Differences, not sums: they are exact where a sum would pass 2^53.
  return tokens <= pool.allowance - pool.used and FREE or EXCEEDED
end

local function judge_settle(pool, held, actual)
  local verdict = held.verdict
  if held.day == 'yesterday' then
    return verdict == FREE and actual > held.tokens and DAY_CLOSED or verdict
  end
  if not pool then
    return verdict
  end
  if verdict == FREE then
    -- Not below 0, should the counters have been lost since: what is held is not granted on top.
    local others = math.max(0, pool.used - held.tokens)
    local fits = actual <= held.tokens or actual <= pool.allowance - others
    return fits and FREE or EXCEEDED
  end
  if verdict == EXCEEDED and not (closes and pool.closed) and actual <= pool.allowance - pool.used then
    return FREE
  end
  return verdict
end

local function add(counters, sum, requests, tokens, sign)
  counters[sum] = math.max(0, counters[sum] + sign * tokens)
  counters[requests] = math.max(0, counters[requests] + sign)
  counters.changed = true
end

local function add_to_row(row, verdict, tokens, sign)
  if verdict == FREE then
    add(row, 'free', 'free_requests', tokens, sign)
  else
    add(row, 'billed', 'billed_requests', tokens, sign)
  end
end

local function add_to_pool(pool, verdict, tokens, sign)
  if verdict == FREE then
    add(pool, 'used', 'free', tokens, sign)
  elseif COUNTS_IN_POOL[verdict] then
    add(pool, 'billed', 'billed_requests', tokens, sign)
  end
end

-- Takes back what a request counted, and counts it as what it is now; false, and nothing done, where
-- a counter would pass its maximum. `was` and `is`: {verdict, tokens}, or nil.
local function replace(day, pool, row, was, is)
  if day == 'yesterday' then
    pool = nil
  end
  if is then
    local free = is.verdict == FREE
    local returned = was and (was.verdict == FREE) == free and was.tokens or 0
    local row_sum = free and row.free or row.billed
    if is.tokens > MAX - (row_sum - returned) then
      return false
    end
    if pool and COUNTS_IN_POOL[is.verdict] then
      local pool_returned = was and COUNTS_IN_POOL[was.verdict] and returned or 0
      local pool_sum = free and pool.used or pool.billed
      if is.tokens > MAX - (pool_sum - pool_returned) then
        return false
      end
    end
  end
  if was then
    add_to_row(row, was.verdict, was.tokens, -1)
    if pool then
      add_to_pool(pool, was.verdict, was.tokens, -1)
    end
  end
  if is then
    add_to_row(row, is.verdict, is.tokens, 1)
    if pool then
      add_to_pool(pool, is.verdict, is.tokens, 1)
      if closes and is.verdict == EXCEEDED then
        pool.closed = true
      end
    end
  end
  return true
end

local function figures(name)
  return name == '' and ',' or name .. ',' .. digits(pool_of(name).used)
end

local function figures_on(day, name)
  return day == 'yesterday' and name .. ',' or figures(name)
end

local function reserve(kind, id, target, tokens_text, workload, row_field)
  local fields = tokens_text .. ':' .. workload .. ':' .. row_field
  local held = id ~= '' and reservation_of(id)
  if held then
    if held.fields ~= fields then
      return 'E,fields'
    elseif held.state == 'r' then
      return 'E,released'
    end
    return 'R,' .. held.verdict .. ',1,' .. figures(held.pool)
  end
  local tokens = tonumber(tokens_text)
  local name, pool, verdict = '', nil, target
  if string.find(target, '^%d') then
    name = pool_names[tonumber(target)]
    pool = pool_of(name)
    verdict = judge_reserve(pool, tokens)
  end
  if kind == 'R' then
    if not replace('today', pool, row_of('today', row_field), nil, { verdict = verdict, tokens = tokens }) then
      return 'E,full'
    end
    if id ~= '' then
      reservations[id] = {
        day = 'today', verdict = verdict, state = '', pool = name,
        tokens = tokens, fields = fields, row = row_field, changed = true,
      }
    end
  end
  return 'R,' .. verdict .. ',0,' .. figures(name)
end

local function settle(id, actual_text)
  local held = reservation_of(id)
  if not held then
    return 'E,unknown'
  elseif held.state == 'r' then
    return 'E,released'
  end
  local actual, replayed = tonumber(actual_text), '1'
  if held.state == 's' then
    if held.actual ~= actual then
      return 'E,amount,' .. digits(held.actual)
    end
  else
    replayed = '0'
    local pool = held.pool ~= '' and held.day == 'today' and pool_of(held.pool) or nil
    local verdict = judge_settle(pool, held, actual)
    local row = row_of(held.day, held.row)
    if not replace(held.day, pool, row, held, { verdict = verdict, tokens = actual }) then
      return 'E,full'
    end
    held.state, held.settled_as, held.actual, held.changed = 's', verdict, actual, true
  end
  return 'S,' .. held.settled_as .. ',' .. held.verdict .. ',' .. replayed .. ',' .. figures_on(held.day, held.pool)
end

local function release(id)
  local held = reservation_of(id)
  if not held then
    return 'E,unknown'
  elseif held.state == 's' then
    return 'E,settled'
  end
  local replayed = held.state == 'r' and '1' or '0'
  if replayed == '0' then
    local pool = held.pool ~= '' and held.day == 'today' and pool_of(held.pool) or nil
    replace(held.day, pool, row_of(held.day, held.row), held, nil)
    held.state, held.changed = 'r', true
  end
  return 'V,' .. digits(held.tokens) .. ',' .. replayed .. ',' .. figures_on(held.day, held.pool)
end

local answers = { 'done', time[1], time[2] }
local at = 5 + 2 * #pool_names
while at <= #ARGV do
  local kind, answer = ARGV[at], nil
  if kind == 'R' or kind == 'L' then
    answer = reserve(kind, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
    at = at + 6
  elseif kind == 'S' then
    answer = settle(ARGV[at + 1], ARGV[at + 2])
    at = at + 3
  elseif kind == 'V' then
    answer = release(ARGV[at + 1])
    at = at + 2
  else
    error({ err = 'ERR unknown kind of item' })
  end
  answers[#answers + 1] = answer
end
if #unnamed_pools > 0 then
  return { 'pools', time[1], time[2], unpack(unnamed_pools) }
end

-- Gathers what is to be written, key by key, and asks whether it may be: a right that is missing must
-- show now.

local writes = {}

local function write(key, expires_at, ...)
  local fields = writes[key]
  if not fields then
    fields = {}
    writes[key] = fields
    writes[#writes + 1] = { key = key, expires_at = digits(expires_at), fields = fields }
  end
  for _, value in ipairs({ ... }) do
    fields[#fields + 1] = value
  end
end

for _, pool in pairs(pools) do
  if pool.changed then
    write(pool.key, midnight + DAY,
      'used', digits(pool.used), 'free_requests', digits(pool.free),
      'billed_tokens', digits(pool.billed), 'billed_requests', digits(pool.billed_requests),
      'closed', pool.closed and '1' or '0')
  end
end

local retention = tonumber(ARGV[2])
local usage_expires_at = { today = midnight + DAY + retention, yesterday = midnight + retention }
for day, read in pairs(rows) do
  for field, row in pairs(read) do
    if row.changed then
      write(usage_keys[day], usage_expires_at[day], field,
        digits(row.free) .. ' ' .. digits(row.billed) .. ' ' .. digits(row.free_requests)
          .. ' ' .. digits(row.billed_requests))
    end
  end
end

local requests_expire_at = { today = midnight + 2 * DAY, yesterday = midnight + DAY }
for id, held in pairs(reservations) do
  if held and held.changed then
    local state = held.verdict .. held.state
    if held.state == 's' then
      state = state .. held.settled_as .. digits(held.actual)
    end
    write(request_keys[held.day], requests_expire_at[held.day], id,
      state .. ':' .. held.pool .. ':' .. held.fields)
  end
end

for _, it in ipairs(writes) do
  if not redis.acl_check_cmd('HSET', it.key, 'field', 'value')
    or not redis.acl_check_cmd('EXPIREAT', it.key, it.expires_at) then
    error({ err = 'NOPERM the user may not HSET and EXPIREAT ' .. it.key })
  end
end

-- After this point everything must succeed: a script is atomic, but does not roll back.

for _, it in ipairs(writes) do
  for at = 1, #it.fields, MAX_UNPACKED do
    redis.call('HSET', it.key, unpack(it.fields, at, math.min(at + MAX_UNPACKED - 1, #it.fields)))
  end
  redis.call('EXPIREAT', it.key, it.expires_at)
end
return answers
