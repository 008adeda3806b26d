// Runs checks of the conformance tests on MORI over the verbs of this machine, and tells what became of each, a line
// of JSON for each: conformance.mjs 'SUITE' 'SUITE: CHECK' …
import { Examination, suites } from '@kvx/conformance/run'

const examination = new Examination({
  backend: new URL('../../../dist/index.js', import.meta.url),
  options: { host: process.env.KVX_RDMA_LAB_ADDRESS },
})
const asked = process.argv.slice(2)
for (const suite of suites) {
  for (const check of suite.checks) {
    if (!asked.includes(suite.name) && !asked.includes(`${suite.name}: ${check.name}`)) continue
    const began = performance.now()
    const told = { suite: suite.name, check: check.name }
    const tell = (outcome, reason) => {
      const seconds = (performance.now() - began) / 1000
      process.stdout.write(`${JSON.stringify({ ...told, outcome, reason, seconds })}\n`)
    }
    try {
      const reason = await examination.check(suite, check)
      tell(reason === undefined ? 'passed' : 'skipped', reason)
    } catch (error) {
      tell('failed', error.message)
    }
  }
}
await examination.close()
