-- Judges the items in their order, and gives the answers.
local function judge(closes, named, kinds, ids, items, pools, rows, past)
  local answers, told, at, id_at = { 'done' }, 1, 1, 0
  while at <= #items do
    local item = items[at]
    local kind, tokens, id, a, b, c, d, e, f
    if item > 0 then
      kind, tokens, at = item, items[at + 1], at + 2
    elseif item > -4 then
      kind, tokens, at = items[at + 1], items[at + 2], at + 3
    end
    if item < 0 and item ~= -3 then
      id_at = id_at + 1
      id = ids[id_at]
    end
    if item == -4 then
      a, b, c, d, e, f = settle(closes, past, id, items[at + 1])
      at = at + 2
    elseif item == -5 then
      a, b, c, d, e, f = release(past, id)
      at = at + 1
    elseif id and past.texts[id] then
      a, b, c, d, e, f = reserve_again(past, id, past.same[kind], tokens)
    else
      local target = kinds[3 * kind - 2]
      local pool, row = pools[target], rows[kinds[3 * kind]]
      local verdict = reserve(closes, pool, row, target, tokens, item >= -1)
      if verdict then
        a, b = verdict, pool and pool[1] or 0
        if item == -1 then
          remember(past, id, kind, verdict, tokens, pool and named[2 * target - 1] or '', pool, row)
        end
      else
        a, b = 'e', 'full'
      end
    end
    answers[told + 1], answers[told + 2] = a, b
    told = told + 2
    if c ~= nil then
      answers[told + 1], answers[told + 2], answers[told + 3], answers[told + 4] = c, d, e, f
      told = #answers
    end
  end
  return answers
end

-- The pools that Reserves ask for.
local function read_pools(key, named, kinds)
  local pools = {}
  for at = 1, #kinds, 3 do
    local target = kinds[at]
    if type(target) == 'number' and not pools[target] then
      pools[target] = read_pool(KEYS[key + target], named[2 * target])
    end
  end
  return pools
end

local function decide(argument)
  local closes, key, named, fields, kinds, ids, items = cmsgpack.unpack(argument)
  -- Lua's stack bounds how many values one call takes: that must show now, not between two writes.
  if #ids > 512 or #kinds > 3 * 512 then
    error('a batch is too large')
  end
  local rows = #fields > 0 and read_rows(KEYS[key], fields) or fields
  local pools, past = read_pools(key, named, kinds), nil
  if #ids > 0 then
    past = read_past({ key = key, named = named, fields = fields, pools = pools, rows = rows }, ids, kinds)
    if past.unnamed then
      return cmsgpack.pack('pools', #past.unnamed, unpack(past.unnamed))
    end
  end
  local answers, writes = judge(closes, named, kinds, ids, items, pools, rows, past), {}
  for _, pool in pairs(pools) do
    if pool[CHANGED] then
      may('SET', pool[KEY], '', 'EXAT', midnight + DAY)
    end
  end
  prepare_rows(writes, KEYS[key], fields, rows, midnight + DAY + retention)
  if past then
    prepare_past(writes, past)
  end

  -- After this point everything must succeed: a script is atomic, but does not roll back.

  for _, pool in pairs(pools) do
    if pool[CHANGED] then
      local text = string.format('%d %d %d %d %d', pool[1], pool[2], pool[3], pool[4], pool[IS_CLOSED] and 1 or 0)
      if pool[IS_NEW] then
        redis.call('SET', pool[KEY], text, 'EXAT', midnight + DAY)
      else
        redis.call('SET', pool[KEY], text, 'KEEPTTL')
      end
    end
  end
  for at = 1, #writes, 3 do
    redis.call('HSET', writes[at], unpack(writes[at + 1]))
    if writes[at + 2] then
      redis.call('EXPIREAT', writes[at], writes[at + 2])
    end
  end
  return cmsgpack.pack(unpack(answers))
end

local answers = { cmsgpack.pack(time[1], time[2]) }
for at = 3, #ARGV do
  local decided, said = pcall(decide, ARGV[at])
  if not decided then
    said = cmsgpack.pack('failed', type(said) == 'table' and said.err or tostring(said))
  end
  answers[at - 1] = said
end
return table.concat(answers)
