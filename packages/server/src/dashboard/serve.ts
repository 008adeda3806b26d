/** The files of the page at /dashboard, and its events. */
import { readFile } from 'node:fs/promises'
import type { App, AppContext } from '../http/server.ts'

const folder = new URL('../../page/', import.meta.url)
const files = {
  '/dashboard': ['index.html', 'text/html; charset=utf-8'],
  '/dashboard/style.css': ['style.css', 'text/css; charset=utf-8'],
  '/dashboard/app.js': ['app.js', 'text/javascript; charset=utf-8'],
} as const

/** Everything comes from this server, and no page of another one shows it. */
const policy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

/** @param stream answers with server-sent events, each a `FeedMessage` */
export function addDashboard(app: App, stream: (c: AppContext) => Response): void {
  for (const [path, [name, type]] of Object.entries(files)) {
    app.get(path, async (c) =>
      c.body(await readFile(new URL(name, folder)), 200, {
        'content-type': type,
        'content-security-policy': policy,
        'x-content-type-options': 'nosniff',
        'cache-control': 'no-cache',
      }),
    )
  }
  app.get('/dashboard/events', stream)
}
