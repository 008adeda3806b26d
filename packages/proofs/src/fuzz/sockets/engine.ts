/** An engine that says that it has written. The bytes are not what is fuzzed. */
import { backendSymbol, contractVersion, KvxError, type Backend, type Link } from '@kvx/contract'

const link: Link = {
  write: () => ({
    done: Promise.resolve({ bytes: 0, segments: 0 }),
    settled: Promise.resolve(),
    cancel: () => undefined,
  }),
  close: () => Promise.resolve(),
}

export const backend: Backend = {
  [backendSymbol]: contractVersion,
  name: 'nothing',
  probe: () => Promise.resolve({ available: true, tried: [] }),
  open: (_options, { generation }) =>
    Promise.resolve({
      capabilities: {
        memoryKinds: ['cpu'],
        crossHost: true,
        fence: 'exit',
        maxSegmentBytes: 0,
        minEfficientRun: 0,
      },
      identity: { backend: 'nothing', version: '1', generation },
      address: Buffer.from(generation),
      register: ({ bytes }) =>
        Promise.resolve({
          id: 0,
          bytes,
          descriptor: Buffer.alloc(16),
          deregister: () => Promise.resolve(),
        }),
      digest: () =>
        Promise.reject(new KvxError('ERR_KVX_INVALID_OPTION', 'there are no bytes to digest')),
      connect: () => Promise.resolve(link),
      fence: () => Promise.resolve(),
      close: () => Promise.resolve(),
    }),
}
