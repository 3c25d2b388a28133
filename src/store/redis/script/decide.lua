-- Decides batch after batch.

-- The answers of all batches, and how many values they are.
local answers, told = { time[1], time[2] }, 2

local function answer(a, b, c, d, e, f, g)
  answers[told + 1], answers[told + 2], answers[told + 3] = a, b, c
  answers[told + 4], answers[told + 5], answers[told + 6], answers[told + 7] = d, e, f, g
  told = #answers
end

-- Judges the items in their order, and answers them. Sums are compared as differences, which are exact
-- where a sum would pass 2^53.
local function judge(it, key, fields, kinds, ids, items, pools, rows, past)
  local closes, classes, id_at = it[1], ids + it[COUNTS + 4] + 1, ids
  local changes, changed = past and past.changes[1], 0
  local kind, reason, row_at, is_listed = 1, it[kinds + 1], it[kinds + 3], it[kinds + 4]
  local pool = pools[reason]
  local at, last = items + 1, #it
  while at <= last do
    local tokens, code, id = it[at], nil, nil
    at = at + 1
    if tokens < 0 then
      code, tokens = tokens, it[at]
      at = at + 1
      if code ~= -3 and code ~= -6 then
        id_at = id_at + 1
        id = it[id_at]
      end
    end
    if code == -6 then
      kind = tokens
      local end_of_kind = kinds + KIND * kind
      reason, row_at, is_listed = it[end_of_kind - 3], it[end_of_kind - 1], it[end_of_kind]
      pool = pools[reason]
    elseif code == -5 then
      at = at - 1
      answer(release(past, id))
      changed = #changes
    elseif code == -4 then
      answer(settle(closes, past, id, tokens))
      changed = #changes
    elseif id and past.texts[id] then
      answer(reserve_again(past, id, it[classes + kind], tokens, code == -1))
    else
      local verdict, side, writes = reason, 2, not code or code == -1
      local row, in_other = rows[row_at], false
      local is_new_row = writes and row[IS_NEW] and not row[CHANGED]
      if is_new_row then
        load_row_functions()
        row, in_other = choose_row(it, key, fields, rows, past, row_at, is_listed)
      end
      if pool then
        if closes and pool[IS_CLOSED] then
          verdict = CLOSED
        elseif tokens <= pool[ALLOWANCE] - pool[1] then
          verdict, side = FREE, 1
        else
          verdict = EXCEEDED
        end
      end
      if writes and (tokens > MAX - row[side] or pool and tokens > MAX - pool[side]) then
        answer('e', 'full')
      else
        if writes then
          if is_new_row and not in_other then
            add_row(it, fields, row_at, is_listed)
          end
          row[side], row[side + 2], row[CHANGED] = row[side] + tokens, row[side + 2] + 1, true
          if pool then
            pool[side], pool[side + 2], pool[CHANGED] = pool[side] + tokens, pool[side + 2] + 1, true
            if side == 2 and closes and verdict == EXCEEDED then
              pool[IS_CLOSED] = true
            end
          end
          if id then
            local class = past.class_of[kind] or new_class(past, kind, it[classes + kind])
            local text = string.format(in_other and '%s%s:%d:' or '%s%s:%d', verdict, class, tokens)
            changes[changed + 1], changes[changed + 2] = id, text
            changed = changed + 2
            if pool and side == 1 then
              pool[HELD_CHANGE] = pool[HELD_CHANGE] + tokens
            end
            if past.recurs then
              recur(past, id, text, class, it[classes + kind], pool, rows[row_at])
            end
          end
        end
        if side == 2 then
          told = told + 1
          answers[told] = verdict
        end
        told = told + 1
        answers[told] = pool and pool[1] or 0
      end
    end
  end
end

local NONE = {}

local function write_hashes(writes)
  for at = 1, #writes, 3 do
    write_hash(writes[at], writes[at + 1], writes[at + 2])
  end
end

local function read_pools(it, key, kinds, ids)
  local pools = {}
  for at = kinds + 1, ids, KIND do
    local place = it[at]
    if type(place) == 'number' and not pools[place] then
      pools[place] = read_pool(it, key, place)
    end
  end
  return pools
end

-- Answers what the caller has to tell before this batch can be decided.
local function ask_for(kind, what)
  answers[told + 1], answers[told + 2] = kind, #what
  for at = 1, #what do
    answers[told + 2 + at] = what[at]
  end
  told = told + 2 + #what
end

-- Answers which pools are written, and what each then is. Gives these records by pool. A batch without
-- operations only restores, and takes no turn: a decision may be under way beside it, at a master that is
-- being replaced, and a later turn here would hide that this one's is missing.
local function answer_records(pools, takes_turn)
  local records, count_at = nil, told + 1
  answers[count_at], told = 0, count_at
  for place, pool in pairs(pools) do
    if pool[CHANGED] then
      local record, mine = pool[RECORD], pool[MINE]
      if not mine then
        if #record > MOST_PARTS * PART then
          unite_first_parts(record)
        end
        mine = #record + 1
        record[mine], record[mine + 1], record[mine + 2], record[mine + 3] = me, 0, 0, 0
        record[mine + 4], record[mine + 5] = 0, 0
      end
      if takes_turn then
        record[1], record[mine + 1] = pool[IS_CLOSED], math.max(record[mine + 1] + 1, turn)
        for value = 1, 4 do
          record[mine + 1 + value] = record[mine + 1 + value] + (pool[value] - pool[BEFORE + value])
        end
      end
      local packed = cmsgpack.pack(unpack(record))
      answers[count_at] = answers[count_at] + 1
      answers[told + 1], answers[told + 2], answers[told + 3] = place, record[mine + 1], packed
      told = told + 3
      records = records or {}
      records[pool] = packed
    end
  end
  return records or NONE
end

local function decide(argument)
  local it = { cmsgpack.unpack(argument) }
  local key = it[2]
  local fields = NAMED + 3 * it[COUNTS + 1]
  local kinds = fields + it[COUNTS + 2]
  local ids = kinds + KIND * it[COUNTS + 3]
  local items, id_count, past = ids, it[COUNTS + 4], nil
  -- Lua's stack bounds how many values one call takes: that must show now, not between two writes.
  if id_count > 512 or it[COUNTS + 3] > 512 then
    error('a batch is too large')
  end
  local rows = kinds > fields and read_rows(KEYS[key], it, fields + 1, kinds) or NONE
  local pools = read_pools(it, key, kinds, ids)
  if id_count > 0 or join then
    items = ids + id_count + 1 + (id_count > 0 and it[COUNTS + 3] + it[COUNTS + 1] or 0)
    past = read_past({
      it = it, key = key, pools = pools, rows = rows, fields = fields, ids = ids,
      id_count = id_count, items = items,
    })
    if past.unnamed then
      return ask_for('pools', past.unnamed)
    end
  end
  if lost then
    return ask_for('lost', lost)
  elseif join then
    doubt_reservations(past, pools)
  end
  told = told + 1
  answers[told] = 'done'
  judge(it, key, fields, kinds, ids, items, pools, rows, past)
  local records = answer_records(pools, items < #it)
  for pool in pairs(records) do
    may('SET', pool[KEY], '', 'EXAT', midnight + DAY)
  end
  local row_changes, rows_expire_at = changes_of(rows, KEYS[key], it, fields, midnight + DAY + retention)
  local row_count_changes = (row_counts or others) and changes_of_row_counts(it, key, past) or NONE
  local past_changes = past and changes_of_past(past, pools) or NONE

  -- After this point everything must succeed: a script is atomic, but does not roll back.

  writes_began = true
  for pool, record in pairs(records) do
    if pool[IS_NEW] then
      redis.call('SET', pool[KEY], record, 'EXAT', midnight + DAY)
    else
      redis.call('SET', pool[KEY], record, 'KEEPTTL')
    end
  end
  if row_changes then
    write_hash(KEYS[key], row_changes, rows_expire_at)
  end
  write_hashes(row_count_changes)
  write_hashes(past_changes)
end

-- Takes back what a batch answered before it failed.
local function answer_failure(told_before, why)
  why = type(why) == 'table' and why.err or tostring(why)
  for at = #answers, told_before + 1, -1 do
    answers[at] = nil
  end
  told = told_before
  answers[told + 1], answers[told + 2] = writes_began and 'torn' or 'failed', why
  told = told + 2
  if not writes_began then
    told = told + 1
    answers[told] = reading or ''
  end
end

for at = 6, #ARGV do
  local told_before = told
  writes_began, reading, lost = false, nil, nil
  row_counts, row_counts_changed, others, loaded_others = nil, nil, nil, nil
  local decided, why = pcall(decide, ARGV[at])
  if not decided then
    answer_failure(told_before, why)
  end
end
local MAX_UNPACKED = 4000
if told <= MAX_UNPACKED then
  return cmsgpack.pack(unpack(answers))
end
local parts = {}
for from = 1, told, MAX_UNPACKED do
  parts[#parts + 1] = cmsgpack.pack(unpack(answers, from, math.min(from + MAX_UNPACKED - 1, told)))
end
return table.concat(parts)
