-- Decides batches of Reserves, which most are, as decide.lua does, with the same answers. It declines a batch that has
-- something rare, and the replica sends it to the full script:
--   a foreign value, or lost writes
--   a row, pool or class that is new, or new to the replica, and is to be written
--   an id that is known, or reservations that are carried into tomorrow's pools
--   a threshold that is reached, a counter that is full, or a missing right
-- If this script fails, nothing was written, and the replica sends all of its batches there.
--
-- It has no functions: Lua would create them again at each call, which costs more than what they do.
--
-- KEYS, ARGV  call.lua; each batch is of another organization, since all are read before the first write; it has no id
--             twice, and of the operations only Reserves and SET_CLASS
-- Rules       judge_reserve, count and hold in rules.lua, the twin of src/domain/pool.rs; predates_recovery in
--             recovery.lua; the text of a reservation, add_reservation in reservations.lua

-- A row is an array of its counters as in rules.lua, and
local CHANGED, IS_NEW = 5, 6
-- A pool or a share has its counters, CHANGED, and: whether it is closed; what Reserves get of it, and how many free
-- tokens reach a further threshold, each without the external usage; its record; the positions in the record of the
-- replica's own component and of the external usage, or nil; after this position the four counters before the batch;
-- how many tokens more are held.
local CLOSED, RESERVABLE, THRESHOLD, RECORD, OWN, EXTERNAL_AT, BEFORE, HELD = 6, 7, 8, 9, 10, 11, 11, 16

local unpack, unpack_values, pack_values, call = unpack, cmsgpack.unpack, cmsgpack.pack, redis.call
local is_allowed, format = redis.acl_check_cmd, string.format
local first_seq = call_number * 1024
-- The answers; and the planned writes, in turn: the key of a pool and its text, or the key of a hash, with the fields
-- and texts that change.
local answers, n_answers, writes, n_writes = { time[1], time[2] }, 2, {}, 0

for number = 2, #ARGV do
  local answers_before, writes_before = n_answers, n_writes
  local args = { unpack_values(ARGV[number]) }
  local closes, first, n_rows, n_pools = args[CLOSES], args[FIRST_KEY], args[N_ROWS], args[N_POOLS] + args[N_SHARES]
  local n_ids, n_classes, fields = args[N_IDS], args[N_CLASSES], HEADER + POOL * n_pools
  local classes = fields + n_rows
  local ids = classes + CLASS * n_classes
  -- Before the lookups, in `args` and in `requests`.
  local lookups = ids + n_ids

  -- Reads.

  -- recovered_before: the last class from before a recovery; 0 if there was none, nil if it is a foreign value.
  local is_plain, pools, requests, recovered_before = n_classes <= 512, {}, nil, 0
  local rows = call('HMGET', KEYS[first], unpack(args, fields + 1, classes))
  for row = 1, n_rows do
    local text, a, b, c, d, closed, more = rows[row]
    if text then
      a, b, c, d, closed, more = unpack_values(text)
      is_plain = is_plain and a % 1 + b % 1 + c % 1 + d % 1 == 0 and a >= 0 and b >= 0 and c >= 0 and d >= 0
        and a + b + c + d <= MAX and closed == false and more == nil
      rows[row] = { a, b, c, d, false, false }
    else
      rows[row] = { 0, 0, 0, 0, false, true }
    end
  end
  for place = 1, n_pools do
    local text, at = call('GET', KEYS[first + 1 + place]), HEADER + POOL * place
    local record, own, seq, external_at, external = text and { unpack_values(text) } or { false }, nil, 0, nil, 0
    local size, a, b, c, d = #record, 0, 0, 0, 0
    for from = 2, size, COMPONENT do
      local owner = record[from]
      if owner == EXTERNAL then
        external_at, external = from, math.max(record[from + 4], record[from + 5])
      else
        if owner == replica then
          own, seq = from, record[from + 1]
        end
        a, b, c, d = a + record[from + 2], b + record[from + 3], c + record[from + 4], d + record[from + 5]
      end
    end
    if seq >= args[at] and a >= 0 and b >= 0 and c >= 0 and d >= 0 and size % COMPONENT == 1
      and a + b + c + d <= MAX and a % 1 + b % 1 + c % 1 + d % 1 + external % 1 == 0
      and type(record[1]) == 'boolean' then
      pools[place] = {
        a, b, c, d, false, record[1], args[at - 2] - external, args[at - 1] - external, record, own, external_at,
        a, b, c, d, 0,
      }
    else
      is_plain = false
    end
  end
  if n_ids > 0 then
    requests = call('HMGET', KEYS[first + 1], unpack(args, ids + 1, lookups + args[N_LOOKUPS]))
    local yesterdays = call('HMGET', KEYS[first + 3 + n_pools], unpack(args, ids + 1, lookups))
    for at = 1, n_ids do
      is_plain = is_plain and not requests[at] and not yesterdays[at]
    end
    local last_class = requests[n_ids + 1]
    if last_class and not tonumber(last_class) then
      recovered_before = tonumber(string.match(last_class, '^%d+ (%d+)$'))
    end
    is_plain = is_plain and recovered_before and not (args[CARRIES_FROM] and now >= args[CARRIES_FROM])
  end

  if is_plain then
    local count_at
    for place = 1, args[N_POOLS] do
      local external_at = pools[place][EXTERNAL_AT]
      if external_at and not count_at then
        answers[n_answers + 1], answers[n_answers + 2] = 'external', 0
        count_at, n_answers = n_answers + 2, n_answers + 2
      end
      if external_at then
        answers[n_answers + 1] = args[HEADER + POOL * place - 4]
        answers[n_answers + 2] = pools[place][RECORD][external_at + 2]
        answers[count_at], n_answers = answers[count_at] + 1, n_answers + 2
      end
    end
    n_answers = n_answers + 1
    answers[n_answers] = 'done'

    -- Judges and counts.

    local at, last, class_number, id = lookups + args[N_LOOKUPS] + 1, #args, 1, ids
    -- Fields and texts of the requests' hash.
    local changes, n_changes = n_ids > 0 and {}, 0
    repeat
      if args[at] == SET_CLASS then
        class_number, at = args[at + 1], at + 2
      end
      local class = classes + CLASS * (class_number - 1)
      local target, row, share = args[class + 1], rows[args[class + 2]], pools[args[class + 3]]
      local pool, class_id = pools[target], requests and requests[n_ids + 1 + class_number]
      -- One from before a recovery is not used again (recovery.lua).
      class_id = class_id and (tonumber(class_id) or 0) > recovered_before and class_id
      repeat
        -- Without a pool the target is the reason.
        local code, tokens, billed_for, side = RESERVE, args[at], target, 1
        if tokens < 0 then
          at, code, tokens = at + 1, tokens, args[at + 1]
        end
        if pool then
          billed_for = closes and pool[CLOSED] and POOL_CLOSED
            or tokens > pool[RESERVABLE] - pool[1] and ALLOWANCE_EXCEEDED
            or share and tokens > share[RESERVABLE] - share[1] and SHARE_EXCEEDED
        end
        if billed_for then
          side, n_answers = 2, n_answers + 1
          answers[n_answers] = billed_for
        end
        if code < 0 and code > DRY_RUN then
          id = id + 1
        end
        if code >= RESERVE_WITH_ID then
          row[side], row[side + 2], row[CHANGED] = row[side] + tokens, row[side + 2] + 1, true
          if pool then
            pool[side], pool[side + 2], pool[CHANGED] = pool[side] + tokens, pool[side + 2] + 1, true
            pool[CLOSED] = pool[CLOSED] or closes and billed_for == ALLOWANCE_EXCEEDED
          end
          if share and not billed_for then
            share[1], share[3], share[CHANGED] = share[1] + tokens, share[3] + 1, true
          end
          if code == RESERVE_WITH_ID then
            is_plain = is_plain and class_id
            changes[n_changes + 1] = args[id]
            changes[n_changes + 2] = format('%s%s:%d', billed_for or FREE, class_id or '', tokens)
            n_changes = n_changes + 2
            if pool and not billed_for then
              pool[HELD] = pool[HELD] + tokens
            end
          end
        end
        n_answers, at = n_answers + 1, at + 1
        answers[n_answers] = pool and pool[1] or 0
      until at > last or args[at] == SET_CLASS
    until at > last

    -- Plans the writes.

    n_answers = n_answers + 1
    count_at, answers[n_answers] = n_answers, 0
    for place = 1, n_pools do
      local pool = pools[place]
      if pool[CHANGED] and not pool[OWN] then
        is_plain = false
      elseif pool[CHANGED] then
        local record, own = pool[RECORD], pool[OWN]
        local seq = record[own + 1] < first_seq and first_seq or record[own + 1] + 1
        record[1], record[own + 1] = pool[CLOSED], seq
        for value = 1, 4 do
          record[own + 1 + value] = record[own + 1 + value] + (pool[value] - pool[BEFORE + value])
        end
        local key, text = KEYS[first + 1 + place], pack_values(unpack(record))
        answers[n_answers + 1], answers[n_answers + 2], answers[n_answers + 3] = place, seq, text
        writes[n_writes + 1], writes[n_writes + 2] = key, text
        answers[count_at], n_answers, n_writes = answers[count_at] + 1, n_answers + 3, n_writes + 2
        is_plain = is_plain and pool[1] < pool[THRESHOLD] and pool[1] <= MAX and pool[2] <= MAX
          and is_allowed('SET', key, '', 'KEEPTTL')
      end
    end
    local values, n_values = nil, 0
    for place = 1, n_rows do
      local row = rows[place]
      if row[CHANGED] then
        values = values or {}
        values[n_values + 1] = args[fields + place]
        values[n_values + 2] = pack_values(row[1], row[2], row[3], row[4], false)
        n_values = n_values + 2
        is_plain = is_plain and not row[IS_NEW] and row[1] <= MAX and row[2] <= MAX
      end
    end
    if values then
      writes[n_writes + 1], writes[n_writes + 2], n_writes = KEYS[first], values, n_writes + 2
      is_plain = is_plain and is_allowed('HSET', KEYS[first], '', '')
    end
    if n_changes > 0 then
      for place = 1, args[N_POOLS] do
        if pools[place][HELD] > 0 then
          local at = 1 + n_classes + place
          local held = tonumber(requests[n_ids + at] or 0)
          is_plain = is_plain and held and held >= 0
          changes[n_changes + 1] = args[lookups + at]
          changes[n_changes + 2] = format('%d', (held or 0) + pools[place][HELD])
          n_changes = n_changes + 2
        end
      end
      writes[n_writes + 1], writes[n_writes + 2], n_writes = KEYS[first + 1], changes, n_writes + 2
      is_plain = is_plain and is_allowed('HSET', KEYS[first + 1], '', '')
    end
  end
  if not is_plain then
    n_answers, n_writes = answers_before + 1, writes_before
    answers[n_answers] = 'declined'
  end
end
local reply = pack_values(unpack(answers, 1, n_answers))

-- After this point everything must succeed: a script is atomic, but does not roll back.

for at = 1, n_writes, 2 do
  local key, value = writes[at], writes[at + 1]
  if type(value) == 'string' then
    call('SET', key, value, 'KEEPTTL')
  else
    call('HSET', key, unpack(value))
  end
end
return reply
