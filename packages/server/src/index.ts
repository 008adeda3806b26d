/** Prefill, decode and standalone workers and a router, as HTTP servers that live in any process. */
export * from './router/index.ts'
export type { EventName, WorkerEvent } from './worker/events.ts'
export {
  startWorker,
  type RunningWorker,
  type WorkerMode,
  type WorkerOptions,
} from './worker/worker.ts'
