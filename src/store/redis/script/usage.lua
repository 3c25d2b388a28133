-- Usage: rows by project and model, and which row counts a request (the twin of RowCounts in src/domain/usage.rs).
--
-- KEYS  usage of today, and of yesterday; requests of today, which has the number of rows
-- ARGV  how long rows are kept; the maximum number of rows; a batch's `rows`
-- Row   src/store/redis/mod.rs; a row of zeros is no row. Neither number of the day's rows, in the field \2 of the
--       requests, includes '(other)', '(other)'.
-- Rule  docs/CONTRACT.md, "What is counted where"

local OTHER = '%28other%29:%28other%29'

local function parse_row(packed)
  if not packed then
    return { 0, 0, 0, 0, false, false, true }
  end
  local a, b, c, d, closed, more = cmsgpack.unpack(packed)
  local is_whole = a % 1 + b % 1 + c % 1 + d % 1 == 0
  local is_known = a >= 0 and b >= 0 and c >= 0 and d >= 0 and a <= MAX and b <= MAX and c <= MAX and d <= MAX
  if not (is_whole and is_known) or closed ~= false or more ~= nil then
    error('foreign counters')
  end
  return { a, b, c, d, false, false, false }
end

-- The rows of the fields list[from] to list[to], in their order.
local function read_rows(key, list, from, to)
  reading = key
  local rows = redis.call('HMGET', key, unpack(list, from, to))
  for at = 1, to - from + 1 do
    rows[at] = parse_row(rows[at])
  end
  return rows
end

-- Whether a new row may be added.
local function admit(counts, is_listed)
  return counts[1] < max_rows and (is_listed or counts[2] < math.floor(max_rows / 2))
end

local function read_row_counts(batch)
  reading = requests_key(batch, TODAY)
  local text = redis.call('HMGET', reading, '\2')[1]
  local all, unlisted = string.match(text or '0 0', '^(%d+) (%d+)$')
  return { tonumber(all) or error('foreign row counts'), tonumber(unlisted) }
end

-- The row '(other)', '(other)' of a day: if it was read already, that one, else from Redis.
local function other_row(batch, day)
  local others, reservations = batch.other_rows or {}, batch.reservations
  batch.other_rows = others
  if others[day] then
    return others[day]
  end
  for at = 1, day == TODAY and #batch.rows or 0 do
    if batch.args[batch.fields + at] == OTHER then
      others[day] = batch.rows[at]
      return others[day]
    end
  end
  local key, fields = usage_key(batch, day), reservations and reservations.fields[day] or {}
  for at = 1, #fields do
    if fields[at] == OTHER then
      others[day] = reservations.rows[day][at]
      return others[day]
    end
  end
  others[day] = read_rows(key, { OTHER }, 1, 1)[1]
  batch.more_rows = batch.more_rows or {}
  batch.more_rows[day] = others[day]
  return others[day]
end

-- The row that counts a request whose own row is new, and whether it is '(other)', '(other)' in its place.
local function choose_row(batch, class)
  local end_of_class = batch.classes + CLASS * class
  local row, is_listed = batch.args[end_of_class - 1], batch.args[end_of_class]
  batch.row_counts = batch.row_counts or read_row_counts(batch)
  if batch.args[batch.fields + row] ~= OTHER and not admit(batch.row_counts, is_listed) then
    return other_row(batch, TODAY), true
  end
  return batch.rows[row], false
end

-- Counts a new row.
local function add_row(batch, class)
  local counts, end_of_class = batch.row_counts, batch.classes + CLASS * class
  if batch.args[batch.fields + batch.args[end_of_class - 1]] ~= OTHER then
    local is_listed = batch.args[end_of_class]
    counts[1], counts[2], counts[3] = counts[1] + 1, counts[2] + (is_listed and 0 or 1), true
  end
end

-- Plans the writes of a day's rows. The field of rows[at] is list[offset + at].
local function plan_rows(batch, day, rows, list, offset)
  local changes, any_new, n = nil, false, 0
  for at = 1, #rows do
    local row = rows[at]
    if row[CHANGED] then
      changes = changes or {}
      changes[n + 1], changes[n + 2] = list[offset + at], cmsgpack.pack(row[1], row[2], row[3], row[4], false)
      n, any_new = n + 2, any_new or row[IS_NEW]
    end
  end
  if changes then
    local day_end = day == TODAY and midnight + DAY or midnight
    plan_write(batch, usage_key(batch, day), changes, any_new and day_end + retention)
  end
end

local function plan_usage(batch)
  plan_rows(batch, TODAY, batch.rows, batch.args, batch.fields)
  if batch.more_rows then
    for day, row in pairs(batch.more_rows) do
      plan_rows(batch, day, { row }, { OTHER }, 0)
    end
  end
  local counts = batch.row_counts
  if counts and counts[3] then
    local changes = { '\2', string.format('%d %d', counts[1], counts[2]) }
    plan_write(batch, requests_key(batch, TODAY), changes, midnight + 2 * DAY)
  end
end

