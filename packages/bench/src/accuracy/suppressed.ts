/**
 * Another engine of which no byte arrives, while all reports say that all went well: what a comparison of caches
 * and answers must notice. Options: `of`, the engine; `from`, where it is looked for; all others are its own.
 */
import { backendSymbol, contractVersion, type Backend } from '@kvx/contract'
import { loadBackend } from '@kvx/core/backend'
import { instead } from '../instead.ts'

const suppressed: Backend = {
  [backendSymbol]: contractVersion,
  name: 'suppressed',
  probe: () => Promise.resolve({ available: true, tried: [] }),
  async open({ of, from, ...options }, context) {
    const backend = await loadBackend(String(of), { from: String(from) })
    const engine = await backend.open(options, context)
    return instead(engine, 'connect', async (...peer: Parameters<typeof engine.connect>) => {
      const link = await engine.connect(...peer)
      const nothing = new Int32Array()
      return instead(link, 'write', (...[plan, given]: Parameters<typeof link.write>) =>
        link.write({ ...plan, blocks: nothing }, given),
      )
    })
  },
}

export default suppressed
