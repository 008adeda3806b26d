// The peer of the benchmark: the same messages, as kvx sent them, through nothing but zeromq with CURVE and the codec.
import { curveKeyPair, Dealer, Router } from 'zeromq'
import { decodeFrame, encodeMessage } from '../dist/control/codec.js'

export async function openBarePrefill() {
  const keys = curveKeyPair()
  const socket = new Router({
    linger: 0,
    // A send ends at once, and nothing is refused, however much there is to say.
    sendTimeout: 0,
    sendHighWaterMark: 0,
    receiveHighWaterMark: 0,
    curveServer: true,
    curveSecretKey: keys.secretKey,
  })
  await socket.bind('tcp://127.0.0.1:*')
  let script = []
  void (async () => {
    for await (const [peer, frame] of socket) {
      const [{ room, last }] = decodeFrame(frame)
      // All that prefill has to say comes after decode's first word.
      if (last || script.length === 0) continue
      for (const message of script) void socket.send([peer, encodeMessage({ ...message, room })])
    }
  })()
  return {
    address: { endpoint: socket.lastEndpoint, key: keys.publicKey },
    play: (messages) => (script = messages),
    close: () => socket.close(),
  }
}

export async function openBareDecode({ endpoint, key }) {
  const keys = curveKeyPair()
  const socket = new Dealer({
    linger: 0,
    sendTimeout: 0,
    sendHighWaterMark: 0,
    receiveHighWaterMark: 0,
    immediate: true,
    curveServerKey: key,
    curvePublicKey: keys.publicKey,
    curveSecretKey: keys.secretKey,
  })
  socket.connect(endpoint)
  const waiting = new Map()
  let script = []
  let answers = 0
  void (async () => {
    for await (const [frame] of socket) {
      const [{ room }] = decodeFrame(frame)
      const one = waiting.get(room)
      if (one === undefined || ++one.heard < answers) continue
      waiting.delete(room)
      one.resolve()
    }
  })()
  return {
    play(own, others) {
      script = own
      answers = others
    },
    async request(_lane, room) {
      const answered = new Promise((resolve) => waiting.set(room, { heard: 0, resolve }))
      const [first, ...rest] = script
      void socket.send(encodeMessage({ ...first, room, last: false }))
      await answered
      for (const message of rest) void socket.send(encodeMessage({ ...message, room, last: true }))
    },
    close: () => socket.close(),
  }
}
