-- Every command of the queues' own script, so that a permission that the user lacks shows before
-- the program is started. The keys have one hash tag, for a cluster, and expire by themselves.
local key, list, set = unpack(KEYS)
redis.call('HSET', key, 'at', '0')  -- first, because a server refuses it if its memory is full
redis.call('PERSIST', key)
redis.call('PEXPIRE', key, 1000)
redis.call('HGETALL', key)
redis.call('HGET', key, 'at')
redis.call('HDEL', key, 'none')
redis.call('RPUSH', list, '0', '1')
redis.call('PEXPIRE', list, 1000)
redis.call('LINDEX', list, 0)
redis.call('LRANGE', list, 0, 0)
redis.call('LSET', list, 0, '1')
redis.call('LINSERT', list, 'BEFORE', '1', '0')
redis.call('LPOP', list)
redis.call('RPOP', list)
redis.call('ZADD', set, 0, 'one')
redis.call('PEXPIRE', set, 1000)
redis.call('ZREMRANGEBYSCORE', set, 1, 1)
redis.call('ZCARD', set)
redis.call('ZREM', set, 'one')
redis.call('DEL', list, set)
return redis.call('TIME')[1]
