/** The router without the workers: a process that only routes need not load llama.cpp. */
export { makeLog, type LogLevel } from '../log.ts'
export type { Draining, HttpOptions, Listening } from '../http/server.ts'
export { startRouter, type RouterOptions } from './router.ts'
export { cacheAwareDefaults, policies, type CacheAwareSettings, type Policy } from './policy.ts'
