/**
 * MORI's own variables. MORI reads them with getenv, some once per process, and several override what a program
 * asks for, without a word.
 */

/** Set for MORI where the user has not. */
export const defaults: Readonly<Record<string, string>> = {
  // MORI logs to the standard output, which belongs to the host. What matters comes back as an error.
  MORI_GLOBAL_LOG_LEVEL: 'critical',
  // The value MORI sends by itself, 7, means "for ever" to soft-RoCE: a dead peer would never be noticed.
  MORI_IO_QP_RETRY_CNT: '6',
  // Otherwise MORI fails transfers on mere news of a port, while the device goes on with them.
  MORI_IO_FAIL_ON_ASYNC_EVENT: 'false',
}

/** Variables that override options, and the option each one stands against. */
const overriding: Readonly<Record<string, string>> = {
  MORI_IO_QP_PER_TRANSFER:
    'the one queue pair of each session (kvx spreads transfers itself: use qpPerTransfer)',
  MORI_IO_POST_BATCH_SIZE: 'postBatchSize',
  MORI_IO_NUM_WORKER_THREADS: 'the one posting thread of each session (use numWorkers)',
  MORI_IO_ENABLE_NOTIFICATION: 'notifications, which kvx turns off',
  MORI_IO_ENABLE_CHUNKING: 'chunking, which kvx turns on so that merged pieces fit the device',
  MORI_IO_CHUNK_BYTES: 'the size of chunks, which kvx takes from the device',
  MORI_IO_MAX_CHUNKS: 'the number of chunks',
  MORI_IO_NUM_NICS_PER_TRANSFER: 'the one device of each session',
  MORI_IO_POLL_CQ_MODE: 'polling, the only mode that works',
  MORI_IO_QP_MAX_SEND_WR: 'the depth of queue pairs',
  MORI_IO_QP_MAX_CQE: 'the depth of completion queues',
  MORI_IO_QP_MAX_SGE: 'the pieces of one work request',
  MORI_IO_QP_MAX_MSG_SGE: 'the pieces of one work request',
}

/** What kvx has set, and what was there before. In Node's main thread `process.env` shows both. */
const changed = new Map<string, { before: string | undefined; now: string }>()

/** The user's value of a variable, also where kvx has put its own. */
export function usersValue(name: string): string | undefined {
  const change = changed.get(name)
  const value = process.env[name]
  return change !== undefined && change.now === value ? change.before : value
}

/** Sets variables for MORI; undefined gives the user's value back. */
export function setForMori(
  set: (name: string, value: string | undefined) => void,
  values: Readonly<Record<string, string | undefined>>,
): void {
  for (const [name, value] of Object.entries(values)) {
    const before = usersValue(name)
    set(name, value ?? before)
    if (value === undefined) changed.delete(name)
    else changed.set(name, { before, now: value })
  }
}

/** The environment as the user has it. */
export function usersEnvironment(): NodeJS.ProcessEnv {
  const env = { ...process.env }
  for (const name of changed.keys()) {
    const value = usersValue(name)
    if (value === undefined) Reflect.deleteProperty(env, name)
    else env[name] = value
  }
  return env
}

/** One sentence for each variable that overrides an option here. */
export function overrides(
  env: NodeJS.ProcessEnv = process.env,
): { variable: string; message: string }[] {
  return Object.entries(overriding)
    .filter(([variable]) => env[variable] !== undefined)
    .map(([variable, what]) => ({
      variable,
      message: `${variable}=${env[variable] ?? ''} is set: MORI obeys it and not kvx, about ${what}.`,
    }))
}
