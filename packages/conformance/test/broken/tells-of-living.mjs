import { shmWith } from './shm-with.mjs'

export default shmWith((engine) => {
  let tell = () => undefined
  return {
    onPeerGone(listener) {
      tell = listener
      engine.onPeerGone(listener)
    },
    async connect(peer, options) {
      const link = await engine.connect(peer, options)
      const close = async () => {
        await link.close()
        tell(peer.generation, 'the link was closed')
      }
      return { write: (...given) => link.write(...given), close }
    },
  }
})
