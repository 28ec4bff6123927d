-- Store one slice's report with the time of it, and forget the slices whose reports have run out.
-- KEYS: set of slices. ARGV: prefix, slice, JSON, milliseconds, channel or "".
-- Nothing of it goes to the append-only file: it is of this second, and would be all that is ever written there.
redis.replicate_commands()
redis.set_repl(redis.REPL_NONE)
local now = redis.call('TIME')
redis.call('SET', ARGV[1] .. ARGV[2], string.format('%d.%06d ', now[1], now[2]) .. ARGV[3], 'PX', ARGV[4])
redis.call('SADD', KEYS[1], ARGV[2])
for _, slice in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[1] .. slice) == 0 then
    redis.call('SREM', KEYS[1], slice)
  end
end
if ARGV[5] ~= '' then
  redis.call('PUBLISH', ARGV[5], 'load ' .. ARGV[2])
end
return 1
