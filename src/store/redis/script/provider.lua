#!lua
-- Writes what the provider counted on a day.
--
-- KEYS     the hash of the day (src/store/redis/provider.rs)
-- ARGV  1  when it expires, in seconds since 1970
--       2  each field and its value
-- Returns  1

redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIREAT', KEYS[1], ARGV[1])
return 1
