import { KvxError, type Memory } from '@kvx/contract'

/** Of memory that kvx allocated: whether it was freed, and whether engines have it registered. */
export interface Tracked {
  /** @throws KvxError `ERR_KVX_INVALID_STATE` after `free` */
  check(): void
  /** @throws KvxError `ERR_KVX_INVALID_STATE` while an engine has the memory registered */
  free(): void
}

interface State {
  users: number
  freed: boolean
}
const states = new WeakMap<Memory, State>()

export function track(memory: Memory): Tracked {
  const state: State = { users: 0, freed: false }
  states.set(memory, state)
  return {
    check() {
      if (state.freed) throw freed()
    },
    free() {
      if (state.users > 0) {
        throw new KvxError(
          'ERR_KVX_INVALID_STATE',
          'The memory is registered with a transfer engine: deregister its region or close the engine first.',
        )
      }
      state.freed = true
    },
  }
}

/** Keeps memory that kvx allocated from being freed until the returned function is called; other memory is the host's own care. */
export function pin(memory: Memory): () => void {
  const state = states.get(memory)
  if (state === undefined) return () => undefined
  if (state.freed) throw freed()
  let pinned = true
  state.users += 1
  return () => {
    if (pinned) state.users -= 1
    pinned = false
  }
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` */
export function checkBytes(bytes: number): void {
  if (Number.isSafeInteger(bytes) && bytes > 0) return
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `Memory needs a positive whole number of bytes, not ${String(bytes)}.`,
  )
}

function freed(): KvxError {
  return new KvxError('ERR_KVX_INVALID_STATE', 'The memory was freed.')
}
