-- Decides batch after batch: reads, judges, plans the writes, and only then writes.
--
-- KEYS, ARGV  call.lua; the operations of each batch
-- Rules       docs/CONTRACT.md, "Reserve"

-- The answers of all batches.
local answers, n_answers = { time[1], time[2] }, 2

local function answer(a, b, c, d, e, f, g)
  local n = n_answers
  answers[n + 1], answers[n + 2], answers[n + 3], answers[n + 4] = a, b, c, d
  answers[n + 5], answers[n + 6], answers[n + 7] = e, f, g
  n_answers = #answers
end

-- What the Reserves of a batch ask for.
local function class_of(batch, number)
  local args, at = batch.args, batch.classes + CLASS * (number - 1)
  local target, row = args[at + 1], args[at + 2]
  return {
    number = number, pool = batch.pools[target], reason = target, row = row, field = args[batch.fields + row],
    is_listed = args[at + 3], lookup = args[batch.ids + batch.n_ids + 1 + number],
  }
end

local function reserve(batch, class, tokens, id, writes)
  local pool, verdict, row, is_in_other = class.pool, class.reason, batch.rows[class.row], false
  local is_new_row = writes and row[IS_NEW] and not row[CHANGED]
  if is_new_row then
    row, is_in_other = choose_row(batch, class)
  end
  if pool then
    verdict = judge_reserve(pool, batch.closes, tokens)
  end
  if writes then
    local side = verdict == FREE and 1 or 2
    if tokens > MAX - row[side] or pool and tokens > MAX - pool[side] then
      return answer('e', 'full')
    end
    if is_new_row and not is_in_other then
      add_row(batch, class)
    end
    count(row, false, verdict, tokens)
    if pool then
      count(pool, batch.closes, verdict, tokens)
    end
    if id then
      add_reservation(batch, id, class, verdict, tokens, is_in_other)
      if pool then
        hold(pool, verdict, tokens)
      end
    end
  end
  if verdict ~= FREE then
    n_answers = n_answers + 1
    answers[n_answers] = verdict
  end
  n_answers = n_answers + 1
  answers[n_answers] = pool and pool[1] or 0
end

-- Decides the operations in their order, and answers them.
local function decide_operations(batch)
  local args, ids, reservations = batch.args, batch.ids, batch.reservations
  local class, at, last = nil, batch.operations + 1, #args
  while at <= last do
    local tokens, code, id = args[at], 0, nil
    at = at + 1
    if tokens < 0 then
      code = tokens
      if code ~= -3 and code ~= -6 then
        ids = ids + 1
        id = args[ids]
      end
      if code ~= -5 then
        tokens = args[at]
        at = at + 1
      end
    end
    if code == -6 then
      class = class_of(batch, tokens)
    elseif code == -5 then
      answer(answer_release(batch, id))
    elseif code == -4 then
      answer(answer_settle(batch, id, tokens))
    else
      class = class or class_of(batch, 1)
      local writes = code == 0 or code == -1
      if id and reservations.texts[id] then
        local fields = string.match(class.lookup, ':(.+)$')
        answer(answer_replay(batch, id, fields, tokens, writes))
      else
        reserve(batch, class, tokens, id, writes)
      end
    end
  end
end

-- Asks the replica for what it has to send before this batch can be decided.
local function ask_for(kind, list)
  answer(kind, #list)
  for at = 1, #list do
    answer(list[at])
  end
end

-- Answers the records of the pools that are written, and gives them by pool.
local function answer_records(batch)
  local records, count_at, has_operations = {}, n_answers + 1, batch.operations < #batch.args
  answer(0)
  for place, pool in pairs(batch.pools) do
    if pool[CHANGED] then
      local seq, record = update_record(pool, has_operations)
      answers[count_at] = answers[count_at] + 1
      answer(place, seq, record)
      records[pool] = record
      assert_allowed('SET', pool[KEY], '', 'EXAT', midnight + DAY)
    end
  end
  return records
end

local function parse_batch(argument)
  local args = { cmsgpack.unpack(argument) }
  local first_key, n_ids = args[2], args[9]
  -- Lua's stack bounds how many values one call takes: that must show now, not between two writes.
  if n_ids > 512 or args[8] > 512 then
    error('a batch is too large')
  end
  local fields = HEADER + POOL * args[6]
  local classes = fields + args[7]
  local ids, requests = classes + CLASS * args[8], first_key + args[6] + 1
  return {
    args = args, closes = args[1], first_key = first_key, has_duplicate_ids = args[5], n_ids = n_ids,
    -- Behind these places the parts of the batch begin.
    fields = fields, classes = classes, ids = ids, operations = ids + n_ids + args[10],
    usage_keys = { KEYS[first_key], KEYS[requests + 1] }, requests_key = KEYS[requests],
    yesterday_requests_key = KEYS[requests + 2], writes = {},
  }
end

-- Whether writes of the batch that is being decided have begun.
local is_writing

local function decide(argument)
  local batch = parse_batch(argument)
  local fields, classes = batch.fields, batch.classes
  batch.rows = classes > fields and read_rows(KEYS[batch.first_key], batch.args, fields + 1, classes) or {}
  batch.pools = read_pools(batch)
  if batch.args[10] > 0 then
    read_reservations(batch)
    if batch.reservations.unnamed then
      return ask_for('pools', batch.reservations.unnamed)
    end
  end
  if batch.stale then
    return ask_for('stale', batch.stale)
  elseif batch.args[3] then
    mark_recovery(batch)
  end
  answer('done')
  decide_operations(batch)
  local records, writes = answer_records(batch), batch.writes
  plan_usage(batch)
  if batch.reservations then
    plan_reservations(batch)
  end

  -- After this point everything must succeed: a script is atomic, but does not roll back.

  is_writing = true
  for pool, record in pairs(records) do
    write_pool(pool, record)
  end
  for at = 1, #writes, 3 do
    redis.call('HSET', writes[at], unpack(writes[at + 1]))
    if writes[at + 2] then
      redis.call('EXPIREAT', writes[at], writes[at + 2])
    end
  end
end

-- Takes back what a batch answered before it failed.
local function answer_failure(answers_before, why)
  why = type(why) == 'table' and why.err or tostring(why)
  for at = #answers, answers_before + 1, -1 do
    answers[at] = nil
  end
  n_answers = answers_before
  if is_writing then
    answer('partial', why)
  else
    answer('failed', why, reading or '')
  end
end

for at = 6, #ARGV do
  local answers_before = n_answers
  is_writing, reading = false, nil
  local is_decided, why = pcall(decide, ARGV[at])
  if not is_decided then
    answer_failure(answers_before, why)
  end
end
local MAX_UNPACKED = 4000
if n_answers <= MAX_UNPACKED then
  return cmsgpack.pack(unpack(answers))
end
local parts = {}
for from = 1, n_answers, MAX_UNPACKED do
  parts[#parts + 1] = cmsgpack.pack(unpack(answers, from, math.min(from + MAX_UNPACKED - 1, n_answers)))
end
return table.concat(parts)
