// The backend around the addon: what it is called, whether it can run here, and its options, of which it has none.
import { backendSymbol, contractVersion, KvxError } from '@kvx/contract'
import { loadAddon, openNativeEngine } from '@kvx/native'

const name = 'files-cpp'
const binding = () => loadAddon(new URL('.', import.meta.url), 'engine-cpp')

function checkOptions(options = {}) {
  const given = JSON.stringify(options)
  if (given === '{}') return
  const message = `The backend '${name}' has no options, got ${given}.`
  throw new KvxError('ERR_KVX_INVALID_OPTION', message)
}

export default {
  [backendSymbol]: contractVersion,
  name,
  async probe(options) {
    try {
      checkOptions(options)
      binding()
      return { available: true, version: '1', tried: [] }
    } catch ({ message }) {
      const tried = [{ what: 'the options and the addon', reason: message }]
      return { available: false, tried, remedy: message }
    }
  },
  async open(options, context) {
    checkOptions(options)
    return openNativeEngine(binding(), { backend: name, options: {}, context })
  },
}
