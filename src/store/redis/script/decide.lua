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

-- A class, its pool, the reason if it is not eligible, its row, and its share, if it has one.
local function class_of(batch, class)
  local at = batch.classes + CLASS * (class - 1)
  local target = batch.args[at + 1]
  return class, batch.pools[target], target, batch.rows[batch.args[at + 2]], batch.pools[batch.args[at + 3]]
end

-- Decides the operations in their order, and answers them.
local function decide_operations(batch)
  local args, ids, reservations = batch.args, batch.ids, batch.reservations
  local closes, at, last = args[CLOSES], batch.operations + 1, #args
  local class, pool, reason, own_row, share = class_of(batch, 1)
  while at <= last do
    local tokens, code, id = args[at], RESERVE, nil
    at = at + 1
    if tokens < 0 then
      code = tokens
      if code > SET_CLASS and code ~= DRY_RUN then
        ids = ids + 1
        id = args[ids]
      end
      if code ~= RELEASE then
        tokens = args[at]
        at = at + 1
      end
    end
    if code == SET_CLASS then
      class, pool, reason, own_row, share = class_of(batch, tokens)
    elseif code == RELEASE then
      answer(answer_release(batch, id))
    elseif code == SETTLE or code == SETTLE_OUTSIDE then
      answer(answer_settle(batch, id, tokens, code == SETTLE_OUTSIDE))
    elseif id and reservations.texts[id] then
      answer(answer_replay(batch, id, class, tokens, code == RESERVE_WITH_ID))
    elseif code == CONFIRM then
      local its, bit = batch.pools[tokens], args[at + 1]
      local from = bit > 0 and component_at(its, NOTIFIED + args[at])
      if from and math.floor(its[RECORD][from + 1] / bit) % 2 == 0 then
        its[RECORD][from + 1], its[CHANGED] = its[RECORD][from + 1] + bit, true
      end
      at = at + 2
      answer('c')
    elseif code == SET_EXTERNAL then
      -- Of two writes of a figure the later one counts, by Redis' clock.
      local its, figure = batch.pools[tokens], args[at]
      raise_peak(its)
      its[EXTERNAL_AT] = component_at(its, EXTERNAL)
      local from, record = its[EXTERNAL_AT], its[RECORD]
      local before, counted = record[from + 3 + figure], record[from + 2]
      record[from + 1] = math.max(record[from + 1] + 1, now * 1000000 + tonumber(time[2]))
      record[from + 3 + figure] = args[at + 1]
      local external = math.max(record[from + 4], record[from + 5])
      record[from + 2] = external
      its[ALLOWANCE], its[RESERVABLE] = its[ALLOWANCE] + counted - external, its[RESERVABLE] + counted - external
      its[THRESHOLD] = its[THRESHOLD] + counted - external
      its[CHANGED], at = true, at + 2
      answer('x', before, external, its[1], its[CLOSED])
    else
      local writes, verdict, row, is_in_other = code >= RESERVE_WITH_ID, reason, own_row, false
      if pool then
        verdict = judge_reserve(pool, share, closes, tokens)
      end
      local is_new_row = writes and row[IS_NEW] and not row[CHANGED]
      if is_new_row then
        row, is_in_other = choose_row(batch, class)
      end
      local side = verdict == FREE and 1 or 2
      local carried = id and writes and side == 1 and batch.carries
        and batch.pools[reason + args[N_POOLS] - args[N_TOMORROW]]
      if carried and tokens > MAX - carried[1] then
        answer('e', 'full')
      elseif writes and (tokens > MAX - row[side] or pool and tokens > MAX - pool[side]) then
        answer('e', 'full')
      else
        if writes then
          if is_new_row and not is_in_other then
            add_row(batch, class)
          end
          count(row, false, verdict, tokens)
          if pool then
            count(pool, closes, verdict, tokens)
          end
          if share and side == 1 then
            count(share, false, verdict, tokens)
          end
          if id then
            add_reservation(batch, id, class, pool, share, carried, verdict, tokens, is_in_other)
          end
          if carried then
            carried[1], carried[CHANGED] = carried[1] + tokens, true
          end
        end
        if side == 2 then
          n_answers = n_answers + 1
          answers[n_answers] = verdict
        end
        n_answers = n_answers + 1
        answers[n_answers] = pool and pool[1] or 0
      end
    end
  end
end

-- Answers which pools are written, with their seq and record.
local function answer_records(batch)
  local count, count_at, has_operations, has_peaks = 0, n_answers + 1, batch.operations < #batch.args, false
  answers[count_at], n_answers = 0, count_at
  for place, pool in pairs(batch.pools) do
    if pool[CHANGED] then
      local seq = update_record(pool, has_operations)
      answers[n_answers + 1], answers[n_answers + 2], answers[n_answers + 3] = place, seq, pool[RECORD]
      count, n_answers, has_peaks = count + 1, n_answers + 3, has_peaks or pool[PEAK_BEFORE]
    end
  end
  answers[count_at] = count
  if has_peaks then
    answer('peaks', 0)
    count_at = n_answers
    for place, pool in pairs(batch.pools) do
      if pool[PEAK_BEFORE] then
        answers[count_at] = answers[count_at] + 1
        answer(place, pool[PEAK_BEFORE], pool[PEAK_EXTERNAL])
      end
    end
  end
end

-- The batch that is being decided: one table for all batches of a call, since a new one for each costs more than
-- what is done with it.
local batch = {
  args = false, fields = 0, classes = 0, ids = 0, operations = 0, rows = false, pools = false, reservations = false,
  carries = false, has_external = false, is_stale = false, row_counts = false, other_rows = false, more_rows = false,
  writes = {}, n_writes = 0,
}
local NO_ROWS = {}

local function start_batch(argument)
  local args = { cmsgpack.unpack(argument) }
  -- Lua's stack limits the values of one call. A batch that is too large must fail here, not between two writes.
  if args[N_IDS] > 512 or args[N_CLASSES] > 512 then
    error('a batch is too large')
  end
  local fields = HEADER + POOL * (args[N_POOLS] + args[N_SHARES])
  local classes = fields + args[N_ROWS]
  local ids = classes + CLASS * args[N_CLASSES]
  batch.args, batch.fields, batch.classes, batch.ids = args, fields, classes, ids
  batch.operations = ids + args[N_IDS] + args[N_LOOKUPS]
  batch.rows = args[N_ROWS] > 0 and read_rows(KEYS[args[FIRST_KEY]], args, fields + 1, classes) or NO_ROWS
  batch.pools, batch.reservations, batch.is_stale, batch.n_writes = {}, false, false, 0
  batch.has_external, batch.carries = false, args[CARRIES_FROM] and now >= args[CARRIES_FROM]
  batch.row_counts, batch.other_rows, batch.more_rows = false, false, false
end

-- Whether the current batch has begun to write.
local is_writing

local function decide(argument)
  start_batch(argument)
  local n_today = batch.args[N_POOLS] - batch.args[N_TOMORROW]
  read_pools(batch)
  if batch.args[N_LOOKUPS] > 0 then
    read_reservations(batch)
    local unnamed = batch.reservations.unnamed or {}
    local has_carried = batch.carries or batch.reservations.has_carried
    local needs_tomorrow = has_carried and batch.args[N_TOMORROW] == 0 and batch.args[N_IDS] > 0
    if needs_tomorrow or #unnamed > 0 then
      answer('pools', needs_tomorrow or false, #unnamed)
      for at = 1, #unnamed do
        answer(unnamed[at])
      end
      return
    end
    for place = n_today + 1, batch.args[N_POOLS] do
      if batch.pools[place - n_today] and not batch.pools[place] then
        batch.pools[place] = read_pool(batch, place)
      end
    end
  end
  if batch.is_stale then
    return answer('stale')
  elseif batch.args[HAS_SNAPSHOTS] then
    mark_recovery(batch)
  end
  if batch.has_external then
    local count_at = n_answers + 2
    answer('external', 0)
    for place, pool in pairs(batch.pools) do
      if place <= n_today and pool[EXTERNAL_AT] then
        answers[count_at] = answers[count_at] + 1
        answer(batch.args[HEADER + POOL * place - 4], pool[RECORD][pool[EXTERNAL_AT] + 2])
      end
    end
  end
  n_answers = n_answers + 1
  answers[n_answers] = 'done'
  decide_operations(batch)
  answer_records(batch)
  plan_usage(batch)
  if batch.reservations then
    plan_reservations(batch)
  end

  -- After this point everything must succeed: a script is atomic, but does not roll back.

  is_writing = true
  write_pools(batch)
  local writes = batch.writes
  for at = 1, batch.n_writes, 3 do
    redis.call('HSET', writes[at], unpack(writes[at + 1]))
    if writes[at + 2] then
      redis.call('EXPIREAT', writes[at], writes[at + 2])
    end
  end
end

-- Replaces the answers of a batch by its failure.
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

for at = 2, #ARGV do
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
