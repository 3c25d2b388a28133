-- What is needed besides where Redis has lost writes: the caller tells what it remembers of its pools.

-- Takes from another record what is further there. Tells whether anything is, or nil.
local function join(record, packed)
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

