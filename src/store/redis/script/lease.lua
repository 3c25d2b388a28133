#!lua
-- Takes a lease, or renews it. One replica at a time has it.
--
-- KEYS     the lease: the number of the replica that has it. It expires unless that replica renews it
-- ARGV  1  the number of the calling replica
--       2  for how long, in milliseconds
-- Returns  1 if the calling replica has it now, 0 if another one has it

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
