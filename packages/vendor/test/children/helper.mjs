// A helper process: does what its task says.
import { onTask, tell } from '@kvx/vendor'

const doing = {
  answer: async () => {
    await tell({ step: 1 })
    await tell({ step: 2, nodeOptions: process.env.NODE_OPTIONS, mark: process.env.KVX_TEST_MARK })
    process.exit(0)
  },
  abort: async () => {
    await tell({ step: 1 })
    for (const line of ['one', 'two', 'three', 'four', 'five']) process.stdout.write(`${line}\n\n`)
    process.kill(process.pid, 'SIGABRT')
  },
  // The event loop does not turn again, as in a library that hangs.
  hang: () => {
    for (;;);
  },
  leave: () => process.exit(7),
  wait: () => tell({ waiting: true }),
}

onTask(async ({ what }) => doing[what]())
