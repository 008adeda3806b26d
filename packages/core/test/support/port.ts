/** Ports that a test leaves and takes again. */
import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

/**
 * A port at which nothing listens. It is below those that systems choose by themselves, so no stranger
 * takes it while the test has left it.
 */
export async function lastingPort(): Promise<number> {
  for (;;) {
    const port = randomInt(18_000, 31_000)
    if (await isFree(port)) return port
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
      .once('error', () => {
        resolve(false)
      })
      .listen(port, '127.0.0.1', () => {
        server.close(() => {
          resolve(true)
        })
      })
  })
}
