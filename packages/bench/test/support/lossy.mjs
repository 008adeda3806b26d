// shm, but of every write the last block is left out, or everything, and the report says that all went well.
import { backendSymbol, contractVersion } from '@kvx/contract'
import shm from '@kvx/shm'

const bound = (target, overrides) =>
  new Proxy(target, {
    get(one, name) {
      if (Object.hasOwn(overrides, name)) return overrides[name]
      const value = one[name]
      return typeof value === 'function' ? value.bind(one) : value
    },
  })

export default {
  [backendSymbol]: contractVersion,
  name: 'lossy',
  probe: () => shm.probe(),
  async open({ lose, ...options }, context) {
    const engine = await shm.open(options, context)
    return bound(engine, {
      async connect(...peer) {
        const link = await engine.connect(...peer)
        return bound(link, {
          write({ lanes, groups, blocks }, given) {
            const kept = lose === 'everything' ? 0 : blocks.length - 4
            return link.write({ lanes, groups, blocks: blocks.slice(0, kept) }, given)
          },
        })
      },
    })
  },
}
