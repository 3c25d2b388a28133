-- Reservations: reads those of a batch's ids, decides their operations, and plans their writes.
--
-- KEYS  requests of today, and of yesterday; usage of today, and of yesterday
-- ARGV  a batch's `ids` and `lookups`
-- Rules docs/CONTRACT.md, "Reserve" 5, "Settle", "Release"
-- Fields of a day's requests: src/store/redis/mod.rs. A reservation is its verdict; 's' and the settled verdict, or 'r'
-- if released, or F if it is held and carried into the pool of the day after; the id of its class; ':' and its tokens.
-- If settled, it ends with ':' and the actual tokens. If held, it ends with ':' if the row '(other)', '(other)' counts
-- it.

local CARRIED = 'FF' -- a verdict, and that it is carried
local RESERVATION = '^([FOZEPJWTMCXDRH])([sr]?)([FOZEPJWTMCXDRH]?)(%d+):(%d+)(:?)(%d*)$'

-- A batch's `reservations`:
--   texts, days        by id: the reservation's text, and its day
--   class_ids          by class of the batch: its id, if it has one
--   classes            by day and id: {name and pool, or '' if not eligible; fields; row; today's share, if it counts}
--   last_class_id, new_classes
--   recovered_before, is_recovery_new
--   held               by place: the pool's held tokens
--   fields, rows       by day: the usage rows that only reservations need
--   changes            by day: the fields and values to write, in turn
--   has_carried        whether a reservation of today is carried
--   recovered_yesterday   the last class of yesterday before a recovery, if yesterday had one
--   unnamed            the pools and shares that the batch must name too

-- Adds a day's reservations of the ids list[offset + 1] to list[offset + n]. Returns the ids that the day does not
-- have; or nil, if it has none of them.
local function add_found(reservations, day, list, offset, values, n)
  local missing
  for at = 1, n do
    local id = list[offset + at]
    if values[at] then
      missing = missing or { unpack(list, offset + 1, offset + at - 1) }
      reservations.texts[id], reservations.days[id] = values[at], day
    elseif missing then
      missing[#missing + 1] = id
    end
  end
  return missing
end

-- Reads the reservations of the ids, today's, else yesterday's, and the lookups.
local function read_texts(batch, reservations)
  local args, ids, n = batch.args, batch.ids, batch.args[N_IDS]
  reading = requests_key(batch, TODAY)
  local values = redis.call('HMGET', reading, unpack(args, ids + 1, batch.operations))
  local text = values[n + 1] or '0'
  reservations.last_class_id = tonumber(text)
  if not reservations.last_class_id then
    local last, before = string.match(text, '^(%d+) (%d+)$')
    reservations.last_class_id = tonumber(last) or error('foreign classes')
    reservations.recovered_before = tonumber(before)
  end
  for at = 1, args[N_CLASSES] do
    local class_id = values[n + 1 + at]
    reservations.class_ids[at] = not predates_recovery(reservations, class_id) and class_id
  end
  for at = 1, args[N_POOLS] - args[N_TOMORROW] do
    reservations.held[at] = values[n + 1 + args[N_CLASSES] + at] or '0'
  end
  local missing = add_found(reservations, TODAY, args, ids, values, n)
  local list, offset = missing or args, missing and 0 or ids
  n = missing and #missing or n
  if n > 0 then
    reading = requests_key(batch, YESTERDAY)
    values = redis.call('HMGET', reading, unpack(list, offset + 1, offset + n))
    add_found(reservations, YESTERDAY, list, offset, values, n)
  end
end

-- Reads the classes of the known reservations of a day.
local function read_classes(batch, day)
  local reservations = batch.reservations
  local classes, class_fields, has_carried = reservations.classes[day], {}, false
  reading = requests_key(batch, day)
  for id, text in pairs(reservations.texts) do
    if reservations.days[id] == day then
      local class_id = string.match(text, RESERVATION) and string.match(text, '(%d+):')
      if not class_id then
        error('a foreign reservation')
      end
      has_carried = has_carried or string.sub(text, 1, 2) == CARRIED
      if not classes[class_id] then
        classes[class_id] = true
        class_fields[#class_fields + 1] = '\1' .. class_id
      end
    end
  end
  if has_carried and day == TODAY then
    reservations.has_carried = true
  elseif has_carried then
    local text = redis.call('HMGET', reading, '\1')[1]
    reservations.recovered_yesterday = tonumber(string.match(text or '', '^%d+ (%d+)$'))
  end
  local values = #class_fields > 0 and redis.call('HMGET', reading, unpack(class_fields)) or {}
  for at = 1, #values do
    local name, share, fields = string.match(values[at] or '', '^([^:+]*)(%+?):(%l:.+)$')
    if not name then
      error('a foreign class')
    end
    classes[string.sub(class_fields[at], 2)] = { name = name, fields = fields, is_in_share = share ~= '' }
  end
  return classes
end

-- Today's pool or share of this name, and its place; nil if the batch does not name it.
local function pool_named(batch, name)
  local n, all = batch.args[N_POOLS] - batch.args[N_TOMORROW], batch.args[N_POOLS] + batch.args[N_SHARES]
  for place = 1, all do
    if (place <= n or place > batch.args[N_POOLS]) and batch.args[HEADER + POOL * place - 4] == name then
      batch.pools[place] = batch.pools[place] or read_pool(batch, place)
      return batch.pools[place], place
    end
  end
  local reservations = batch.reservations
  reservations.unnamed = reservations.unnamed or {}
  table.insert(reservations.unnamed, name)
end

-- Sets the pools and rows of a day's classes.
local function link_classes(batch, day)
  local reservations, rows, fields = batch.reservations, {}, {}
  for at = 1, day == TODAY and #batch.rows or 0 do
    rows[batch.args[batch.fields + at]] = batch.rows[at]
  end
  local classes = read_classes(batch, day)
  for _, class in pairs(classes) do
    class.field = string.sub(class.fields, 3)
    if rows[class.field] == nil then
      rows[class.field] = false
      fields[#fields + 1] = class.field
    end
    -- A replay returns the pool's present balance, whichever day the reservation is of.
    if class.name ~= '' then
      class.pool, class.place = pool_named(batch, class.name)
    end
    if class.is_in_share and day == TODAY then
      class.share = pool_named(batch, class.name .. ':' .. string.match(class.field, '^[^:]*'))
    end
  end
  if #fields > 0 then
    reservations.fields[day] = fields
    reservations.rows[day] = read_rows(usage_key(batch, day), fields, 1, #fields)
    for at = 1, #fields do
      rows[fields[at]] = reservations.rows[day][at]
    end
  end
  for _, class in pairs(classes) do
    class.row = rows[class.field]
  end
end

local function read_reservations(batch)
  local reservations = {
    texts = {}, days = {}, class_ids = {}, classes = { {}, {} }, held = {}, fields = {}, rows = {},
    changes = { {}, {} }, new_classes = {},
  }
  batch.reservations = reservations
  read_texts(batch, reservations)
  if next(reservations.texts) then
    link_classes(batch, TODAY)
    link_classes(batch, YESTERDAY)
  end
end

-- The reservation of an id, or nil.
local function reservation_of(batch, id)
  local reservations = batch.reservations
  local text, day = reservations.texts[id], reservations.days[id]
  if not text then
    return nil
  end
  local verdict, state, settled_as, class_id, tokens, in_other, settled_tokens = string.match(text, RESERVATION)
  return {
    id = id, day = day, class = reservations.classes[day][class_id], class_id = class_id, verdict = verdict,
    state = state, tokens = tonumber(tokens), is_in_other = in_other == ':', settled_as = settled_as,
    settled_tokens = tonumber(settled_tokens), is_carried = state == '' and settled_as ~= '',
  }
end

-- If an id is in the changes twice, HSET takes the last.
local function set_reservation(batch, day, id, text)
  local reservations = batch.reservations
  local changes = reservations.changes[day]
  local n = #changes
  changes[n + 1], changes[n + 2] = id, text
  if batch.args[HAS_DUPLICATES] then
    reservations.texts[id], reservations.days[id] = text, day
  end
end

-- The field of a class of the batch in the hash: \1, pool, '+' if a share counts it, ':', workload, ':', row.
local function class_field(batch, class)
  return batch.args[batch.ids + batch.args[N_IDS] + 1 + class]
end

-- Adds a new reservation. `carried`: tomorrow's pool, if it is carried.
local function add_reservation(batch, id, class, pool, share, carried, verdict, tokens, is_in_other)
  local reservations = batch.reservations
  local class_id = reservations.class_ids[class]
  if not class_id then
    reservations.last_class_id = reservations.last_class_id + 1
    class_id = string.format('%d', reservations.last_class_id)
    reservations.class_ids[class] = class_id
    local new, field = reservations.new_classes, class_field(batch, class)
    local n = #new
    new[n + 1], new[n + 2], new[n + 3], new[n + 4] = field, class_id, '\1' .. class_id, string.sub(field, 2)
  end
  local text = string.format(is_in_other and '%s%s:%d:' or '%s%s:%d', carried and CARRIED or verdict, class_id, tokens)
  set_reservation(batch, TODAY, id, text)
  if pool then
    hold(pool, verdict, tokens)
  end
  if batch.args[HAS_DUPLICATES] and not reservations.classes[TODAY][class_id] then
    local name, fields = string.match(class_field(batch, class), '^\1([^:+]*)%+?:(.+)$')
    local at = batch.classes + CLASS * class
    reservations.classes[TODAY][class_id] = {
      name = name, fields = fields, pool = pool, place = batch.args[at - 2], row = batch.rows[batch.args[at - 1]],
      share = share,
    }
  end
end

-- What a replica answers must be in its snapshot: so a replay writes the pools and the share of the reservation too,
-- with their counters unchanged. If a carried reservation ends, `kept` of its tokens stay in the pool that it is
-- carried into; but not after a recovery, since Redis may have lost that it ended before. A recovery of today predates
-- no reservation of yesterday.
local function touch(batch, reservation, kept)
  local class, reservations, is_stale = reservation.class, batch.reservations, nil
  local carried = class.pool
  if reservation.day == TODAY and class.pool then
    class.pool[CHANGED] = true
    if class.share then
      class.share[CHANGED] = true
    end
    carried = batch.pools[class.place + batch.args[N_POOLS] - batch.args[N_TOMORROW]]
    is_stale = predates_recovery(reservations, reservation.class_id)
  elseif reservation.is_carried then
    local before = reservations.recovered_yesterday
    is_stale = reservations.recovered_before or before and tonumber(reservation.class_id) <= before
  end
  if reservation.is_carried then
    carried[CHANGED] = true
    if kept and not is_stale then
      raise_peak(carried)
      carried[1] = math.max(0, carried[1] - (reservation.tokens - kept))
    end
  end
end

-- A pool in an answer: its name, `used`, and whether it is closed. For a reservation of yesterday only its name, and
-- false, unless a Reserve is replayed.
local function balance(class, day)
  local pool = class.pool
  if pool and day == YESTERDAY then
    return class.name, false
  end
  return class.name, pool and pool[1] or 0, pool and pool[CLOSED] or false
end

-- Takes back what a held reservation counted, and counts its new verdict, if it has one: both, or neither if a
-- counter is full. A reservation that predates a recovery may have been taken back before, so its pool only goes up.
-- What ran outside the programme counts in its row alone.
local function replace(batch, reservation, is_stale, verdict, actual)
  local day, was, reserved = reservation.day, reservation.verdict, reservation.tokens
  local row = reservation.is_in_other and other_row(batch, day) or reservation.class.row
  local pool = day == TODAY and reservation.class.pool
  local side = verdict == FREE and 1 or 2
  local room = verdict and MAX - actual + ((verdict == FREE) == (was == FREE) and reserved or 0)
  local counts_in_pool = pool and verdict and verdict ~= RAN_OUTSIDE_PROGRAM
  if verdict and (row[side] > room or counts_in_pool and pool[side] > (is_stale and MAX - actual or room)) then
    return false
  end
  take_back(row, was, reserved)
  if verdict then
    count(row, false, verdict, actual)
  end
  if pool then
    raise_peak(pool)
    pool[CHANGED] = true
    end_hold(pool, was, reserved)
    if not is_stale then
      take_back(pool, was, reserved)
    end
    if counts_in_pool and not (is_stale and verdict == FREE and actual <= reserved) then
      count(pool, batch.args[CLOSES], verdict, actual)
    end
  end
  -- A share counts FREE tokens only.
  local share = day == TODAY and reservation.class.share
  if share and was == FREE and not is_stale then
    take_back(share, FREE, reserved)
  end
  if share and verdict == FREE and not (is_stale and actual <= reserved) then
    count(share, false, FREE, actual)
  end
  return true
end

-- Each of these returns the values of the answer.

local function answer_replay(batch, id, class, tokens, writes)
  local reservation, fields = reservation_of(batch, id), string.match(class_field(batch, class), ':(.+)$')
  local verdict, refusal, why = reserve_again(reservation, fields, tokens)
  if not verdict then
    return refusal, why
  end
  if writes then
    touch(batch, reservation)
  end
  return 'r', verdict, balance(reservation.class, TODAY)
end

local function answer_settle(batch, id, actual, outside_program)
  local it = reservation_of(batch, id)
  if not it then
    return 'e', 'unknown'
  end
  local progress, refusal, why = settle(it, actual, outside_program)
  if not progress then
    return refusal, why
  elseif progress == 'replay' then
    touch(batch, it)
    return 's', it.settled_as, it.verdict, true, balance(it.class, it.day)
  end
  local pool, verdict = it.day == TODAY and it.class.pool, nil
  local is_stale = pool and it.verdict == FREE and predates_recovery(batch.reservations, it.class_id)
  if outside_program then
    verdict = RAN_OUTSIDE_PROGRAM
  elseif pool then
    verdict = judge_settle(pool, batch.args[CLOSES], it.verdict, it.tokens, is_stale and 0 or it.tokens, actual)
  else
    verdict = judge_late_settle(it.verdict, it.tokens, actual)
  end
  if not replace(batch, it, is_stale, verdict, actual) then
    return 'e', 'full'
  end
  touch(batch, it, it.day == YESTERDAY and verdict == FREE and actual or 0)
  local text = string.format('%ss%s%s:%d:%d', it.verdict, verdict, it.class_id, it.tokens, actual)
  set_reservation(batch, it.day, id, text)
  return 's', verdict, it.verdict, false, balance(it.class, it.day)
end

local function answer_release(batch, id)
  local it = reservation_of(batch, id)
  if not it then
    return 'e', 'unknown'
  end
  local progress, refusal, why = release(it)
  if not progress then
    return refusal, why
  elseif progress == 'replay' then
    touch(batch, it)
  else
    local is_stale = it.verdict == FREE and predates_recovery(batch.reservations, it.class_id)
    replace(batch, it, is_stale)
    touch(batch, it, 0)
    set_reservation(batch, it.day, id, string.format('%sr%s:%d', it.verdict, it.class_id, it.tokens))
  end
  return 'v', it.tokens, progress == 'replay', balance(it.class, it.day)
end

local function plan_reservations(batch)
  local reservations = batch.reservations
  local changes = reservations.changes[TODAY]
  reading = requests_key(batch, TODAY)
  for place, pool in pairs(batch.pools) do
    if pool[HELD_CHANGE] ~= 0 then
      local held = tonumber(reservations.held[place]) or error('foreign held tokens')
      local n = #changes
      changes[n + 1] = '\2' .. batch.args[HEADER + POOL * place - 4]
      changes[n + 2] = string.format('%d', math.max(0, held + pool[HELD_CHANGE]))
    end
  end
  for day = TODAY, YESTERDAY do
    if reservations.rows[day] then
      plan_rows(batch, day, reservations.rows[day], reservations.fields[day], 0)
    end
    if #reservations.changes[day] > 0 then
      plan_write(batch, requests_key(batch, day), reservations.changes[day])
    end
  end
  local classes, before = reservations.new_classes, reservations.recovered_before
  if #classes > 0 or reservations.is_recovery_new then
    -- So long that Redis stores the hash as a table from the first id on, not as a list that it searches.
    local last, n = string.format('%065d', reservations.last_class_id), #classes
    classes[n + 1], classes[n + 2] = '\1', before and string.format('%s %d', last, before) or last
    plan_write(batch, requests_key(batch, TODAY), classes, midnight + 2 * DAY)
  end
end

