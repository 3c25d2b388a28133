-- What is needed besides where Redis has lost writes: the caller tells what it remembers of its pools.

-- Takes from another record what is further there. Tells whether anything is, or nil.
function join(record, packed)
  local other, further = { cmsgpack.unpack(packed) }, nil
  if other[1] and not record[1] then
    record[1], further = true, true
  end
  for from = 2, #other, 6 do
    local at = 2
    while at <= #record and record[at] ~= other[from] do
      at = at + 6
    end
    if at > #record or other[from + 1] > record[at + 1] then
      further = true
      for value = 0, 5 do
        record[at + value] = other[from + value]
      end
    end
  end
  return further
end

-- Redis may have forgotten what settled or released the reservations that it still has, while the pool's
-- restored counters have it. What these took back must not be taken back twice: from here on reservations
-- of the classes that there are no longer lower what is used, and later ones get classes of their own.
function doubt_reservations(past, pools)
  for _, pool in pairs(pools) do
    if pool[CHANGED] and past.last_class > 0 then
      past.doubted, past.is_new_doubt = past.last_class, true
      past.class_of = {}
    end
  end
end
