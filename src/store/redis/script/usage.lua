-- Which usage row counts a request: the one of its project and model, or '(other)', '(other)' where the day
-- has as many rows as it may have. The twin of RowCounts in src/domain/usage.rs.

local TODAY, YESTERDAY = 1, 2
local OTHER = '%28other%29:%28other%29'

-- Of the batch, and read when it is needed: how many rows today has, all and those of unlisted models;
-- the rows '(other)', '(other)' by day, and which of these no other table has.
local row_counts, row_counts_changed, others, loaded_others

-- These are made when a batch first needs them: most calls make no row, and to make functions would cost each
-- call more than it needs.
local choose_row, add_row, other_row, changes_of_row_counts

local function load_row_functions()
  if choose_row then
    return
  end

  local function admit(counts, is_listed)
    return counts[1] < max_rows and (is_listed or counts[2] < math.floor(max_rows / 2))
  end

  local function requests_key(it, key)
    return KEYS[key + it[COUNTS + 1] + 1]
  end

  local function read_row_counts(it, key)
    reading = requests_key(it, key)
    local held = redis.call('HMGET', reading, '\2')[1]
    local all, unlisted = string.match(held or '0 0', '^(%d+) (%d+)$')
    return { tonumber(all) or error('foreign row counts'), tonumber(unlisted) }
  end

  -- The row '(other)', '(other)' where a table of the batch has it.
  local function find_other(it, fields, rows, past, day)
    if day == TODAY then
      for at = 1, #rows do
        if it[fields + at] == OTHER then
          return rows[at]
        end
      end
    end
    local more = past and past.fields[day]
    for at = 1, more and #more or 0 do
      if more[at] == OTHER then
        return past.rows[day][at]
      end
    end
  end

  function other_row(it, key, fields, rows, past, day)
    others = others or {}
    if not others[day] then
      others[day] = find_other(it, fields, rows, past, day)
    end
    if not others[day] then
      others[day] = read_rows(day == TODAY and KEYS[key] or past.usage_keys[day], { OTHER }, 1, 1)[1]
      loaded_others = loaded_others or {}
      loaded_others[day] = others[day]
    end
    return others[day]
  end

  -- The row that counts a new request, and whether that is '(other)', '(other)' in place of its own. `at` is
  -- the number of its own, which is not there yet.
  function choose_row(it, key, fields, rows, past, at, is_listed)
    row_counts = row_counts or read_row_counts(it, key)
    if it[fields + at] ~= OTHER and not admit(row_counts, is_listed) then
      return other_row(it, key, fields, rows, past, TODAY), true
    end
    return rows[at], false
  end

  -- Counts a new row.
  function add_row(it, fields, at, is_listed)
    if it[fields + at] ~= OTHER then
      row_counts_changed = true
      row_counts[1], row_counts[2] = row_counts[1] + 1, row_counts[2] + (is_listed and 0 or 1)
    end
  end

  -- What is to be written of them: key, changes and when it expires in turn.
  function changes_of_row_counts(it, key, past)
    local writes, n = {}, 0
    if row_counts_changed then
      writes[1], n = requests_key(it, key), 3
      writes[2], writes[3] = { '\2', string.format('%d %d', row_counts[1], row_counts[2]) }, midnight + 2 * DAY
      may_write_hash(writes[1], writes[3])
    end
    for day, row in pairs(loaded_others or {}) do
      if row[CHANGED] then
        local usage_key = day == TODAY and KEYS[key] or past.usage_keys[day]
        local expires_at = row[IS_NEW] and (day == TODAY and midnight + DAY or midnight) + retention or false
        may_write_hash(usage_key, expires_at)
        writes[n + 1], writes[n + 2], writes[n + 3] = usage_key, { OTHER, packed(row) }, expires_at
        n = n + 3
      end
    end
    return writes
  end
end

