// shm, but no byte of a write is moved, and the report says that all went well.
import { backendSymbol, contractVersion } from '@kvx/contract'
import shm from '@kvx/shm'

const instead = (target, name, replacement) =>
  new Proxy(target, {
    get(one, key) {
      if (key === name) return replacement
      const value = one[key]
      return typeof value === 'function' ? value.bind(one) : value
    },
  })

export default {
  [backendSymbol]: contractVersion,
  name: 'suppressed',
  probe: () => shm.probe(),
  async open(options, context) {
    const engine = await shm.open(options, context)
    return instead(engine, 'connect', async (...peer) => {
      const link = await engine.connect(...peer)
      const nothing = new Int32Array()
      return instead(link, 'write', (plan, given) =>
        link.write({ ...plan, blocks: nothing }, given),
      )
    })
  },
}
