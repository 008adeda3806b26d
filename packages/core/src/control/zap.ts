import { z85 } from './keys.ts'
import { Router, type Context } from './zeromq.ts'

/**
 * Answers libzmq's question, for every handshake with a server socket of `context`, whether the
 * client's key is admitted (RFC 27/ZAP). Without it, CURVE would admit any client that knows the
 * server's public key. One per context, so every server has a context of its own.
 */
export function admitOnly(context: Context, clientKey: string): { close(): void } {
  const socket = new Router({ context, linger: 0 })
  try {
    socket.bindSync('inproc://zeromq.zap.01')
  } catch (error) {
    socket.close()
    throw error
  }
  void answer(socket, clientKey)
  return {
    close: () => {
      socket.close()
    },
  }
}

async function answer(socket: Router, clientKey: string): Promise<void> {
  for await (const [peer, , version, request, , , , mechanism, key] of socket) {
    if (peer === undefined || request === undefined) continue
    const admitted =
      version?.toString() === '1.0' &&
      mechanism?.toString() === 'CURVE' &&
      key?.length === 32 &&
      z85(key) === clientKey
    const [status, text] = admitted ? ['200', 'OK'] : ['400', 'unknown client key']
    await socket.send([peer, '', '1.0', request, status, text, '', '']).catch(() => undefined)
  }
}
