// The engine of @kvx/shm, of which some methods are others.
import shm from '@kvx/shm'

const methods = ['register', 'digest', 'fence', 'close', 'connect', 'onPeerGone', 'openStaging']

/** The backend with `change(engine)` in place of methods of its engine. */
export const shmWith = (change) => ({
  ...shm,
  async open(options, context) {
    const engine = await shm.open(options, context)
    const { capabilities, identity, address } = engine
    const own = Object.fromEntries(methods.map((name) => [name, engine[name].bind(engine)]))
    return { capabilities, identity, address, ...own, ...change(engine) }
  },
})
