/**
 * Mutants of the protocol that worlds of two ranks and no staging cannot show, each with the reason. Schedules of the
 * simulator show them: `seeds.json` says which.
 */
const staging = 'no staging memory in these worlds'
const ranks = 'one rank on each side'
const honest = 'nobody lies, and prefill counts right'

export const tooSmallFor: Readonly<Record<string, string>> = {
  'bay-freed-on-abort': staging,
  'bay-not-given-back': staging,
  'bay-freed-at-scattering': staging,
  'scattered-before-it-is': staging,
  'bay-offset-off-by-one': staging,
  'complete-before-scattered': staging,
  'staged-without-its-epoch': staging,
  'pages-freed-while-scattering': staging,
  'source-freed-while-gathering': staging,
  'source-bay-freed-at-failure': staging,
  'no-bay-for-ever': staging,
  'one-rank-is-enough': ranks,
  'finished-with-first-ack': ranks,
  'failure-stays-with-rank': ranks,
  'legs-not-aborted': ranks,
  'fence-of-another-writer': ranks,
  'tokens-of-others-wanted': ranks,
  'never-published-waits-for-ever': ranks,
  'manifest-ignored': honest,
  'manifest-bytes-ignored': honest,
}
