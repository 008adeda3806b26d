/**
 * The process of a mutant of the gate: real strangers at a real control port, since the simulated network begins
 * behind it. The bounds are those of the code as it is, not of the mutant.
 */
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { silentLog } from '@kvx/contract'
import { ControlServer } from '@kvx/core/wire'
import type { Quarry } from './hunt.ts'

const maxStrangers = 512
const signature = Buffer.from('ff00000000000000017f', 'hex')

const silent = () => undefined

/** @param livenessMs what it gives a stranger to show the token */
function serve(livenessMs: number): Promise<ControlServer> {
  return ControlServer.bind({
    host: '127.0.0.1',
    port: 0,
    token: 'a token for the flood',
    livenessMs,
    log: silentLog,
    onMessage: silent,
  })
}

/** Those of `count` connections that stand. */
async function strangers(
  server: ControlServer,
  count: number,
  begin?: Buffer,
): Promise<Set<Socket>> {
  const open = new Set<Socket>()
  const made = Array.from({ length: count }, () => {
    const socket = connect(server.port, '127.0.0.1')
    open.add(socket)
    socket.on('error', silent)
    socket.on('close', () => open.delete(socket))
    socket.resume()
    return once(socket, 'connect').then(
      () => begin && socket.write(begin),
      () => undefined,
    )
  })
  await Promise.all(made)
  return open
}

async function within(ms: number, right: () => boolean): Promise<boolean> {
  for (const end = Date.now() + ms; !right() && Date.now() < end;)
    await new Promise((resolve) => setTimeout(resolve, 20))
  return right()
}

const drop = (sockets: Iterable<Socket>) => {
  for (const socket of sockets) socket.destroy()
}

async function violation(): Promise<{ check: string; text: string } | undefined> {
  const greeters = await strangers(hasty, 4, signature)
  const waiters = await strangers(hasty, 4)
  if (!(await within(10_000, () => greeters.size + waiters.size === 0))) {
    return { check: 'stranger without end', text: 'a stranger that says nothing more stays' }
  }
  const crowd = await strangers(patient, maxStrangers + 60)
  const isBounded = await within(10_000, () => crowd.size <= maxStrangers)
  drop(crowd)
  if (isBounded) return undefined
  return { check: 'strangers without limit', text: `${crowd.size} strangers are connected at once` }
}

// The one ends strangers soon; the other not before everything has been looked at.
const [hasty, patient] = await Promise.all([serve(500), serve(120_000)])
const found = await violation()
const quarry: Quarry = {
  schedules: 1,
  found: found ? 1 : 0,
  first: found && { seed: 1, ...found },
}
await Promise.all([hasty.close(), patient.close()])
process.stdout.write(JSON.stringify(quarry), () => process.exit(0))
