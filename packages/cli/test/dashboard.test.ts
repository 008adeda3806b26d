/** The live page, in a real browser: what a person sees of requests, pages and failures. With KVX_SCREENSHOTS=FOLDER it takes pictures. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { chromium, type Browser, type Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { patience, Process, startRouter } from './support/cluster.ts'

const executablePath = process.env.KVX_CHROMIUM ?? '/usr/bin/chromium'
const key = 'key-of-the-test'
const screenshots = process.env.KVX_SCREENSHOTS

let processes: Process[] = []
let router: Process
let browser: Browser

// Debian's package is chromium; another one is named by KVX_CHROMIUM.
const withBrowser = test.skipIf(!existsSync(executablePath))

beforeAll(async () => {
  if (!existsSync(executablePath)) return
  const start = (mode: string) =>
    Process.start([
      ...['serve', '--disaggregation-mode', mode, '--port', '0', '--api-key', key],
      ...['--disaggregation-bootstrap-port', '0', '--context-length', '1024'],
      ...['--chunked-prefill-size', '64', '--instance', mode],
    ])
  const [prefill, decode] = await Promise.all(['prefill', 'decode'].map(start))
  if (!prefill || !decode) throw new Error('no workers')
  router = await startRouter(prefill, decode, '--api-key', key)
  processes = [prefill, decode, router]
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
}, patience)

afterAll(async () => {
  await (browser as Browser | undefined)?.close()
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` }

async function generate(tokens: number, answer: number): Promise<void> {
  const ids = Array.from({ length: tokens }, (_, i) => 300 + ((i * 37 + tokens) % 9_000))
  const body = { input_ids: ids, sampling_params: { max_new_tokens: answer, ignore_eos: true } }
  const response = await fetch(`${router.url}/generate`, {
    ...{ method: 'POST', headers, body: JSON.stringify(body) },
  })
  expect(response.status).toBe(200)
  await response.arrayBuffer()
}

async function opened(
  options: Parameters<Browser['newPage']>[0] = {},
  url = router.url,
): Promise<Page> {
  const page = await browser.newPage(options)
  page.setDefaultTimeout(patience)
  await page.goto(`${url}/dashboard`)
  await page.getByLabel('This server needs its API key').fill(key)
  await page.keyboard.press('Enter')
  return page
}

/** The spans of a request's bar: what they are, and where they begin and end, in thousandths of its time. */
const spansOf = (page: Page, row: number) =>
  page
    .locator('#requests details')
    .nth(row)
    .locator('rect')
    .evaluateAll((rects) =>
      rects.map((rect) => {
        const [x, width] = ['x', 'width'].map((name) => Number(rect.getAttribute(name)))
        const [what = ''] = (rect.textContent ?? '').split(':')
        return { what, kind: rect.getAttribute('class'), from: x ?? 0, to: (x ?? 0) + (width ?? 0) }
      }),
    )

withBrowser(
  'a chunked prompt leaves prefill piece by piece, before all of it is computed',
  async () => {
    const page = await opened()
    await generate(500, 24)
    await page.locator('#requests details', { hasText: '500 → 24 tokens' }).waitFor()
    await expect.poll(() => page.locator('#status').textContent()).toContain('2 workers')
    await expect.poll(() => page.locator('#status').textContent()).toContain('0 requests under way')
    const spans = await spansOf(page, 0)
    const of = (kind: string) => spans.filter((span) => span.kind === kind)
    expect(of('prefill')).toHaveLength(8)
    const handedOver = of('wire').filter(({ what }) => what.includes('handed over'))
    expect(handedOver).toHaveLength(8)
    expect(handedOver[0]?.to).toBeLessThan(of('prefill').at(-1)?.from ?? 0)
    expect(of('decode')[0]?.from).toBeGreaterThanOrEqual(of('waiting')[0]?.to ?? Infinity)
    await page.close()
  },
  patience,
)

withBrowser(
  'the page can be used by keyboard alone, and tells more of a request when asked',
  async () => {
    await generate(200, 4)
    const page = await opened()
    const row = page.locator('#requests details').first()
    await row.waitFor()
    await row.locator('summary').focus()
    await page.keyboard.press('Enter')
    await row.getByText('first chunk sent at').waitFor()
    // It stays open, and focused, while what is around it changes.
    await generate(30, 2)
    await page.locator('#requests details', { hasText: '30 → 2 tokens' }).waitFor()
    expect(await page.locator('#requests details[open]').count()).toBe(1)
    expect(await page.evaluate("document.activeElement.closest('details').open")).toBe(true)
    await page.close()
  },
  patience,
)

withBrowser(
  'pages, peers and failures with their first cause are shown, by a worker itself too',
  async () => {
    const decode = processes[1]
    if (!decode) throw new Error('no decode worker')
    await generate(40, 2)
    // Nobody sends the cache of this one.
    const refused = await fetch(`${decode.url}/generate`, {
      ...{ method: 'POST', headers },
      body: JSON.stringify({
        ...{ text: 'x', bootstrap_host: '127.0.0.1', bootstrap_port: 1, bootstrap_room: 9 },
      }),
    })
    expect(refused.ok).toBe(false)
    const page = await opened({}, decode.url)
    await page.locator('#failures tr').first().waitFor()
    expect(await page.locator('#failures').textContent()).toContain('ERR_KVX_')
    const workers = page.locator('#workers')
    await expect.poll(() => workers.textContent()).toContain('prefill tp0 pp0 cp0 dp0:')
    const caption = await page.locator('#pages figcaption').textContent()
    expect(caption).toMatch(/0 leased, 0 quarantined, \d+ cached, \d+ free/)
    await page.close()
  },
  patience,
)

withBrowser(
  'what moves between each two workers is told, with its speed on the wire',
  async () => {
    const page = await opened()
    await generate(300, 2)
    const pair = page.locator('#pairs tr').first()
    await pair.waitFor()
    const [prefill, decode] = processes
    expect(await pair.locator('th').textContent()).toBe(prefill?.url)
    const cells = pair.locator('td')
    expect(await cells.first().textContent()).toBe(decode?.url)
    await expect.poll(() => cells.nth(2).textContent()).toMatch(/^[1-9][\d.]* MB \(/)
    expect(await cells.nth(3).textContent()).toMatch(/^\d+\.\d\d GB\/s$/)
    await page.close()
  },
  patience,
)

withBrowser(
  'it fits a phone, by day and by night, and asks for nothing from elsewhere',
  async () => {
    const asked: string[] = []
    for (const [name, viewport] of [
      ['desktop', { width: 1200, height: 1100 }],
      ['phone', { width: 390, height: 844 }],
    ] as const) {
      for (const colorScheme of ['light', 'dark'] as const) {
        const page = await opened({ viewport, colorScheme })
        page.on('request', (request) => asked.push(request.url()))
        await page.locator('#requests details').first().waitFor()
        const width = await page.evaluate<number>('document.documentElement.scrollWidth')
        expect(width).toBeLessThanOrEqual(viewport.width)
        if (screenshots !== undefined) {
          await Promise.all([generate(400, 40), generate(250, 60)])
          await page.screenshot({ path: join(screenshots, `dashboard-${name}-${colorScheme}.png`) })
        }
        await page.close()
      }
    }
    expect(asked.filter((url) => !url.startsWith(router.url))).toEqual([])
  },
  patience,
)

withBrowser('without the right key nothing is told', async () => {
  const page = await browser.newPage()
  await page.goto(`${router.url}/dashboard`)
  await page.getByLabel('This server needs its API key').fill('another key')
  await page.keyboard.press('Enter')
  await expect
    .poll(() => page.locator('#status').textContent())
    .toContain('this key is not the right one')
  expect(await page.locator('#requests details').count()).toBe(0)
  await page.close()
})
