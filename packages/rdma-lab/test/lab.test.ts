/** The command on real guests. Each takes some seconds to boot, so one guest shows several things. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { whyNot } from '@kvx/rdma-lab'
import { describe, expect, onTestFinished, test } from 'vitest'

const program = fileURLToPath(new URL('../bin/kvx-rdma-lab.js', import.meta.url))
const limit = { timeout: 180_000 }
const missing = whyNot()

/** Starts the command with a time limit of its own. */
function lab(...args: string[]) {
  const child = spawn(process.execPath, [program, '-t', '120', '-m', '1024', ...args])
  onTestFinished(() => void child.kill('SIGKILL'))
  const out: Buffer[] = []
  const err: Buffer[] = []
  child.stdout.on('data', (part: Buffer) => out.push(part))
  child.stderr.on('data', (part: Buffer) => err.push(part))
  const ended = once(child, 'close').then(([code]) => ({
    code: code as number,
    out: Buffer.concat(out),
    err: Buffer.concat(err).toString(),
  }))
  return { child, ended }
}

function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'kvx lab,'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return folder
}

describe.skipIf(missing !== undefined)(
  `a guest${missing === undefined ? '' : ` (${missing})`}`,
  () => {
    test(
      'input, output, errors, exit code, arguments and a writable folder are the command’s, and rxe0 is active',
      limit,
      async () => {
        const [kept, lost] = [scratch(), scratch()]
        const args = ['two words', "it's", '$HOME\n*']
        const script =
          'printf "%s|" "$@" >&2; cat /sys/class/infiniband/rxe0/ports/1/state >&2; ulimit -l >&2; cat; echo kept >"$1/file"; echo lost >"$2/file"; exit 42'
        const { child, ended } = lab('-w', kept, 'sh', '-c', script, 'sh', kept, lost, ...args)
        const bytes = randomBytes(1 << 20)
        child.stdin.end(bytes)
        const { code, out, err } = await ended
        expect(err).toBe([kept, lost, ...args, '4: ACTIVE\nunlimited\n'].join('|'))
        expect(out.equals(bytes)).toBe(true)
        expect(code).toBe(42)
        expect(readFileSync(join(kept, 'file'), 'utf8')).toBe('kept\n')
        expect(existsSync(join(lost, 'file'))).toBe(false)
      },
    )

    test('a signal reaches the command, which ends as it likes', limit, async () => {
      const script = 'trap "echo stopped; exit 7" TERM; echo started; while :; do sleep 0.1; done'
      const { child, ended } = lab('bash', '-c', script)
      await once(child.stdout, 'data')
      child.kill('SIGTERM')
      expect(await ended).toMatchObject({ code: 7, out: Buffer.from('started\nstopped\n') })
    })

    test(
      'what ends by itself: time, a guest that dies, and a reader that goes',
      limit,
      async () => {
        const late = lab('-t', '1', 'sleep', '1000')
        expect((await late.ended).code).toBe(124)
        const dying = lab('sh', '-c', 'echo o >/proc/sysrq-trigger; sleep 1000')
        const died = await dying.ended
        expect(died.code).toBe(70)
        expect(died.err).toContain('The guest ended without an answer.')
        const unread = lab('yes')
        await once(unread.child.stdout, 'data')
        unread.child.stdout.destroy()
        expect((await unread.ended).code).toBe(141)
      },
    )

    test(
      'two guests reach each other until their link is cut, and again when it is mended',
      limit,
      async () => {
        const script = `
      # The link loses one packet in a hundred: of three one arrives.
      ping() { busybox ping -q -c 3 -W "$1" $KVX_RDMA_LAB_PEER >/dev/null && echo reached || echo lost; }
      [ $KVX_RDMA_LAB = 1 ] && exec sleep 1000
      ping 20; $KVX_RDMA_LAB_LINK cut; ping 2; $KVX_RDMA_LAB_LINK mend; ping 20
      tc qdisc show dev eth0 | grep -o "loss 1%"; kill -9 $$`
        const { child, ended } = lab('-c', '1', '--netem', 'loss 1%', 'sh', '-c', script)
        let said = ''
        for await (const part of child.stdout) {
          said += String(part)
          if (said.endsWith('loss 1%\n')) break
        }
        expect(said).toBe('reached\nlost\nreached\nloss 1%\n')
        child.kill('SIGTERM') // the first guest still sleeps
        expect((await ended).code).toBe(143)
      },
    )
  },
)
