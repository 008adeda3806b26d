// A libibverbs for tests: RDMA WRITE and READ between processes of one machine. It stands in for
// the kernel and the device, never for MORI, which runs on it unchanged.
//
// What it is true to:
//  * A key of a deregistered region lets nothing in: deregistration waits for copies in progress,
//  and later ones
//    are refused. (A copy of a process that was stopped in the middle makes it wait until that goes
//    on or dies.)
//  * An error puts a queue pair into the error state; what is posted after that is flushed.
//  * A destroyed queue pair posts nothing any more.
//  * Writing into a stopped process succeeds: the device does not ask the process.
// Completions in the order of posting; one port; RoCE v2; no SEND (notifications must be off).
//
// KVX_FAKE_VERBS_CONTROL names a file with the numbers of `struct control`, which a test reads and
// writes while the process runs. KVX_FAKE_VERBS_PATH overrides the device's place in sysfs,
// KVX_FAKE_VERBS_MAX_MESSAGE the longest message. KVX_FAKE_VERBS_IDLE_US makes polling in vain take
// so many microseconds, which leaves the processor to others: MORI polls all the time.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#undef ibv_query_port
#undef ibv_reg_mr

struct control {
  _Atomic uint32_t lose;    // so many completions are swallowed
  _Atomic uint32_t hold;    // while not 0, posted work requests wait
  _Atomic uint32_t held;    // out: how many wait
  _Atomic uint32_t refuse;  // the n-th registration from now is refused; all of them for 0xffffffff
  _Atomic uint32_t regions;         // out: registered now
  _Atomic uint32_t queue_pairs;     // out: existing now
  _Atomic uint32_t landed;          // out: work requests that were carried out
  _Atomic uint32_t refused;         // out: work requests that the target refused
  _Atomic uint32_t no_queue_pairs;  // while not 0, no queue pair can be made
  _Atomic uint32_t status;          // while not 0, work requests move nothing and complete with it
  _Atomic uint32_t late;            // while not 0, completions are kept from who polls for them
  _Atomic uint32_t full;            // while not 0, send queues take nothing
  _Atomic uint32_t removed;  // while not 0, the device is gone, and what was posted is flushed
};

enum { kRegions = 4096, kWriters = 16, kPieces = 32, kContexts = 64 };
enum { kRefuseAll = UINT32_MAX };
static const char kTableName[] = "kvx-fake-verbs";

// The regions of one process, in a memory file that its peers map as well.
struct region {
  _Atomic uint32_t key;  // 0: not registered
  uint32_t last_key;
  uint64_t address, bytes;
  int access;
  _Atomic pid_t writers[kWriters];  // processes that copy into or out of it
};

struct completion_queue {
  struct ibv_cq base;
  pthread_mutex_t lock;
  struct ibv_wc* ring;
  unsigned capacity, head;
  atomic_uint tail;
};

struct request {
  struct request* next;
  struct ibv_send_wr work;
  struct ibv_sge pieces[kPieces];
};

struct queue_pair {
  struct ibv_qp base;
  bool signal_all;
  pid_t peer;
  int peer_fd;  // pidfd: a process id may be used again, this may not
  struct region* peer_regions;
  pthread_mutex_t lock;
  struct request *first, *last;  // held back
  struct queue_pair *next, *previous;
};

static struct ibv_device device;
static struct region* regions;
static struct control no_control, *control = &no_control;
static struct timespec idle;  // for which who polls in vain is held up
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct queue_pair* queue_pairs;
static uint32_t next_queue_pair = 16;
static struct ibv_context* contexts[kContexts];

static void sleep_briefly(void) {
  nanosleep(&(struct timespec){0, 200000}, NULL);
}

static bool is_gone(int pidfd) {
  struct pollfd waiting = {pidfd, POLLIN, 0};
  return pidfd < 0 || poll(&waiting, 1, 0) > 0;
}

// --- Regions ---

static struct region* map_table(int fd, int protection) {
  void* table = mmap(NULL, kRegions * sizeof(struct region), protection, MAP_SHARED, fd, 0);
  return table == MAP_FAILED ? NULL : table;
}

static struct region* map_peer_table(pid_t peer) {
  char folder[64];
  snprintf(folder, sizeof folder, "/proc/%d/fd", peer);
  DIR* list = opendir(folder);
  struct region* table = NULL;
  for (struct dirent* entry; list && !table && (entry = readdir(list));) {
    char target[128] = "";
    if (readlinkat(dirfd(list), entry->d_name, target, sizeof target - 1) < 0) continue;
    if (!strstr(target, kTableName)) continue;
    const int fd = openat(dirfd(list), entry->d_name, O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    table = map_table(fd, PROT_READ | PROT_WRITE);
    close(fd);
  }
  if (list) closedir(list);
  return table;
}

static struct region* find_region(struct region* table, uint32_t key, uint64_t address,
                                  uint64_t bytes) {
  const uint32_t i = key >> 8;
  if (!table || key == 0 || i >= kRegions || atomic_load(&table[i].key) != key) return NULL;
  struct region* region = &table[i];
  if (address < region->address || bytes > region->bytes) return NULL;
  return address - region->address <= region->bytes - bytes ? region : NULL;
}

static bool process_is_alive(pid_t process) {
  return kill(process, 0) == 0 || errno == EPERM;
}

static _Atomic pid_t* enter(struct region* region) {
  for (;;) {
    for (int i = 0; i < kWriters; i++) {
      pid_t holder = atomic_load(&region->writers[i]);
      if (holder != 0 && process_is_alive(holder)) continue;
      if (atomic_compare_exchange_strong(&region->writers[i], &holder, getpid()))
        return &region->writers[i];
    }
    sched_yield();
  }
}

static void await_writers(struct region* region) {
  for (int i = 0; i < kWriters; i++) {
    for (pid_t holder;
         (holder = atomic_load(&region->writers[i])) != 0 && process_is_alive(holder);) {
      sleep_briefly();
    }
  }
}

static bool refuse_registration(void) {
  uint32_t left = atomic_load(&control->refuse);
  if (left == kRefuseAll) return true;
  return left > 0 && atomic_fetch_sub(&control->refuse, 1) == 1;
}

struct ibv_mr* ibv_reg_mr(struct ibv_pd* pd, void* address, size_t bytes, int access) {
  if (control->removed) {
    errno = EIO;
    return NULL;
  }
  if (refuse_registration()) {
    errno = ENOMEM;
    return NULL;
  }
  pthread_mutex_lock(&lock);
  struct ibv_mr* mr = NULL;
  for (uint32_t i = 1; i < kRegions && !mr; i++) {
    struct region* region = &regions[i];
    if (atomic_load(&region->key) != 0) continue;
    region->last_key = i << 8 | ((region->last_key + 1) & 0xff);
    region->address = (uint64_t)address;
    region->bytes = bytes;
    region->access = access;
    atomic_store(&region->key, region->last_key);
    mr = calloc(1, sizeof *mr);
    *mr = (struct ibv_mr){.context = pd->context,
                          .pd = pd,
                          .addr = address,
                          .length = bytes,
                          .lkey = region->last_key,
                          .rkey = region->last_key};
    atomic_fetch_add(&control->regions, 1);
  }
  pthread_mutex_unlock(&lock);
  if (!mr) errno = ENOMEM;
  return mr;
}

struct ibv_mr* ibv_reg_mr_iova2(struct ibv_pd* pd, void* address, size_t bytes, uint64_t iova,
                                unsigned access) {
  (void)iova;
  return ibv_reg_mr(pd, address, bytes, (int)access);
}

struct ibv_mr* ibv_reg_dmabuf_mr(struct ibv_pd* pd, uint64_t offset, size_t bytes, uint64_t iova,
                                 int fd, int access) {
  (void)pd, (void)offset, (void)bytes, (void)iova, (void)fd, (void)access;
  errno = EOPNOTSUPP;
  return NULL;
}

int ibv_dereg_mr(struct ibv_mr* mr) {
  struct region* region = &regions[mr->lkey >> 8];
  atomic_store(&region->key, 0);
  await_writers(region);
  atomic_fetch_sub(&control->regions, 1);
  free(mr);
  return 0;
}

// --- Moving bytes ---

static void complete(struct queue_pair* qp, const struct ibv_send_wr* work,
                     enum ibv_wc_status status, uint32_t bytes) {
  struct completion_queue* cq = (struct completion_queue*)qp->base.send_cq;
  pthread_mutex_lock(&cq->lock);
  const unsigned tail = atomic_load(&cq->tail);
  if (tail - cq->head < cq->capacity) {
    cq->ring[tail % cq->capacity] = (struct ibv_wc){
        .wr_id = work->wr_id,
        .status = status,
        .opcode = work->opcode == IBV_WR_RDMA_READ ? IBV_WC_RDMA_READ : IBV_WC_RDMA_WRITE,
        .byte_len = bytes,
        .qp_num = qp->base.qp_num};
    atomic_store(&cq->tail, tail + 1);
  }
  pthread_mutex_unlock(&cq->lock);
}

static enum ibv_wc_status copy(struct queue_pair* qp, struct iovec* local, int pieces,
                               uint64_t remote, size_t bytes, bool write) {
  for (size_t done = 0; done < bytes;) {
    struct iovec there = {(void*)(remote + done), bytes - done};
    const ssize_t step = write ? process_vm_writev(qp->peer, local, pieces, &there, 1, 0)
                               : process_vm_readv(qp->peer, local, pieces, &there, 1, 0);
    if (step <= 0) return errno == ESRCH ? IBV_WC_RETRY_EXC_ERR : IBV_WC_REM_ACCESS_ERR;
    done += (size_t)step;
    for (size_t left = (size_t)step; left > 0;) {
      const size_t taken = left < local->iov_len ? left : local->iov_len;
      local->iov_base = (char*)local->iov_base + taken;
      local->iov_len -= taken;
      left -= taken;
      if (local->iov_len == 0) local++, pieces--;
    }
  }
  return IBV_WC_SUCCESS;
}

static enum ibv_wc_status carry_out(struct queue_pair* qp, const struct ibv_send_wr* work,
                                    uint32_t* moved) {
  if (work->opcode != IBV_WR_RDMA_WRITE && work->opcode != IBV_WR_RDMA_READ)
    return IBV_WC_REM_INV_REQ_ERR;
  struct iovec local[kPieces];
  size_t bytes = 0;
  for (int i = 0; i < work->num_sge; i++) {
    const struct ibv_sge* piece = &work->sg_list[i];
    if (!find_region(regions, piece->lkey, piece->addr, piece->length)) return IBV_WC_LOC_PROT_ERR;
    local[i] = (struct iovec){(void*)piece->addr, piece->length};
    bytes += piece->length;
  }
  *moved = (uint32_t)bytes;
  if (is_gone(qp->peer_fd)) return IBV_WC_RETRY_EXC_ERR;
  const uint32_t key = work->wr.rdma.rkey;
  const uint64_t remote = work->wr.rdma.remote_addr;
  struct region* region = find_region(qp->peer_regions, key, remote, bytes);
  if (!region) return IBV_WC_REM_ACCESS_ERR;
  // First say that we are in, then look again: a deregistration either sees us or is seen by us.
  _Atomic pid_t* place = enter(region);
  const bool write = work->opcode == IBV_WR_RDMA_WRITE;
  const int right = write ? IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ;
  enum ibv_wc_status status = IBV_WC_REM_ACCESS_ERR;
  if (find_region(qp->peer_regions, key, remote, bytes) && (region->access & right)) {
    status = copy(qp, local, work->num_sge, remote, bytes, write);
  }
  atomic_store(place, 0);
  return status;
}

static bool lose_completion(void) {
  uint32_t left = atomic_load(&control->lose);
  while (left > 0) {
    if (atomic_compare_exchange_weak(&control->lose, &left, left - 1)) return true;
  }
  return false;
}

static void execute(struct queue_pair* qp, const struct ibv_send_wr* work) {
  uint32_t bytes = 0;
  enum ibv_wc_status status = (enum ibv_wc_status)control->status;
  if (qp->base.state == IBV_QPS_ERR || control->removed) {
    status = IBV_WC_WR_FLUSH_ERR;
  } else if (status == IBV_WC_SUCCESS) {
    status = carry_out(qp, work, &bytes);
  }
  if (status == IBV_WC_SUCCESS) {
    atomic_fetch_add(&control->landed, 1);
    if (!qp->signal_all && !(work->send_flags & IBV_SEND_SIGNALED)) return;
    if (lose_completion()) return;
  } else {
    if (status == IBV_WC_REM_ACCESS_ERR) atomic_fetch_add(&control->refused, 1);
    qp->base.state = IBV_QPS_ERR;
  }
  complete(qp, work, status, bytes);
}

static void hold_back(struct queue_pair* qp, const struct ibv_send_wr* work) {
  struct request* request = calloc(1, sizeof *request);
  request->work = *work;
  memcpy(request->pieces, work->sg_list, (size_t)work->num_sge * sizeof *work->sg_list);
  request->work.sg_list = request->pieces;
  if (qp->last) qp->last->next = request;
  if (!qp->first) qp->first = request;
  qp->last = request;
  atomic_fetch_add(&control->held, 1);
}

static struct request* take_held(struct queue_pair* qp) {
  struct request* request = qp->first;
  if (!request) return NULL;
  qp->first = request->next;
  if (!qp->first) qp->last = NULL;
  atomic_fetch_sub(&control->held, 1);
  return request;
}

static int post_send(struct ibv_qp* base, struct ibv_send_wr* work, struct ibv_send_wr** bad) {
  struct queue_pair* qp = (struct queue_pair*)base;
  if (control->full || control->removed) {
    *bad = work;
    return control->removed ? EIO : ENOMEM;
  }
  pthread_mutex_lock(&qp->lock);
  for (; work; work = work->next) {
    if (work->num_sge > kPieces) {
      *bad = work;
      pthread_mutex_unlock(&qp->lock);
      return EINVAL;
    }
    if (qp->first || atomic_load(&control->hold)) {
      hold_back(qp, work);
    } else {
      execute(qp, work);
    }
  }
  pthread_mutex_unlock(&qp->lock);
  return 0;
}

// Once for every context that is open then.
static void tell_removal(void) {
  static bool told = false;
  if (told == (control->removed != 0)) return;
  told = !told;
  if (!told) return;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < kContexts; i++) {
    if (contexts[i] && write(contexts[i]->async_fd, &(uint64_t){1}, 8) < 0) abort();
  }
  pthread_mutex_unlock(&lock);
}

// Carries out what was held back once it may go on.
static void* release_held(void* unused) {
  (void)unused;
  for (;; sleep_briefly()) {
    tell_removal();
    if (atomic_load(&control->held) == 0) continue;
    if (atomic_load(&control->hold) && !control->removed) continue;
    pthread_mutex_lock(&lock);
    for (struct queue_pair* qp = queue_pairs; qp; qp = qp->next) {
      pthread_mutex_lock(&qp->lock);
      for (struct request* request; (request = take_held(qp));) {
        execute(qp, &request->work);
        free(request);
      }
      pthread_mutex_unlock(&qp->lock);
    }
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

static int post_recv(struct ibv_qp* qp, struct ibv_recv_wr* work, struct ibv_recv_wr** bad) {
  (void)qp, (void)work, (void)bad;
  return 0;
}

static int poll_cq(struct ibv_cq* base, int most, struct ibv_wc* out) {
  struct completion_queue* cq = (struct completion_queue*)base;
  if (cq->head == atomic_load(&cq->tail) || control->late) {
    if (idle.tv_nsec > 0) nanosleep(&idle, NULL);
    return 0;
  }
  pthread_mutex_lock(&cq->lock);
  int count = 0;
  while (count < most && cq->head != atomic_load(&cq->tail))
    out[count++] = cq->ring[cq->head++ % cq->capacity];
  pthread_mutex_unlock(&cq->lock);
  return count;
}

static int req_notify_cq(struct ibv_cq* cq, int solicited) {
  (void)cq, (void)solicited;
  return 0;
}

// --- The device ---

static void start(void) {
  static bool started = false;
  if (started) return;
  started = true;
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);  // so that peers may write into this process
  const int fd = memfd_create(kTableName, MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, kRegions * sizeof(struct region)) < 0) abort();
  regions = map_table(
      fd, PROT_READ | PROT_WRITE);  // the descriptor stays open: peers find the table by it
  const char* idle_us = getenv("KVX_FAKE_VERBS_IDLE_US");
  if (idle_us) idle.tv_nsec = 1000 * strtol(idle_us, NULL, 10);
  const char* file = getenv("KVX_FAKE_VERBS_CONTROL");
  const int control_fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
  if (control_fd >= 0) {
    void* mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, control_fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(control_fd);
  }
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  pthread_create(&thread, NULL, release_held, NULL);
  pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// The device's folder must exist, and its path must hold a PCI address: MORI looks for it.
static void make_path(char* path, size_t size) {
  const char* given = getenv("KVX_FAKE_VERBS_PATH");
  if (given) {
    snprintf(path, size, "%s", given);
    return;
  }
  snprintf(path, size, "/tmp/kvx-fake-verbs-%d", getuid());
  mkdir(path, 0700);
  strncat(path, "/0000:00:00.0", size - strlen(path) - 1);
  mkdir(path, 0700);
  strncat(path, "/fake0", size - strlen(path) - 1);
  mkdir(path, 0700);
}

struct ibv_device** ibv_get_device_list(int* count) {
  pthread_mutex_lock(&lock);
  start();
  device.node_type = IBV_NODE_CA;
  device.transport_type = IBV_TRANSPORT_IB;
  strcpy(device.name, "fake0");
  strcpy(device.dev_name, "fake0");
  make_path(device.ibdev_path, sizeof device.ibdev_path);
  memcpy(device.dev_path, device.ibdev_path, sizeof device.dev_path);
  pthread_mutex_unlock(&lock);
  struct ibv_device** list = calloc(2, sizeof *list);
  if (!control->removed) list[0] = &device;
  if (count) *count = list[0] ? 1 : 0;
  return list;
}

void ibv_free_device_list(struct ibv_device** list) {
  free(list);
}
const char* ibv_get_device_name(struct ibv_device* one) {
  return one->name;
}

// Puts a context in the place of another; with NULL, in a free one, or none in its place.
static void keep(struct ibv_context* before, struct ibv_context* after) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < kContexts; i++) {
    if (contexts[i] != before) continue;
    contexts[i] = after;
    break;
  }
  pthread_mutex_unlock(&lock);
}

struct ibv_context* ibv_open_device(struct ibv_device* one) {
  struct ibv_context* context = calloc(1, sizeof *context);
  context->device = one;
  context->cmd_fd = -1;
  context->async_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  context->num_comp_vectors = 1;
  context->ops.post_send = post_send;
  context->ops.post_recv = post_recv;
  context->ops.poll_cq = poll_cq;
  context->ops.req_notify_cq = req_notify_cq;
  keep(NULL, context);
  return context;
}

int ibv_close_device(struct ibv_context* context) {
  keep(context, NULL);
  close(context->async_fd);
  free(context);
  return 0;
}

int ibv_query_device(struct ibv_context* context, struct ibv_device_attr* out) {
  (void)context;
  *out = (struct ibv_device_attr){.fw_ver = "fake",
                                  .vendor_id = 0xffffff,
                                  .max_mr_size = UINT64_MAX,
                                  .page_size_cap = 4096,
                                  .max_qp = 65536,
                                  .max_qp_wr = 1 << 20,
                                  .max_sge = kPieces,
                                  .max_cq = 65536,
                                  .max_cqe = 1 << 20,
                                  .max_mr = kRegions,
                                  .max_pd = 1024,
                                  .max_qp_rd_atom = 128,
                                  .max_qp_init_rd_atom = 128,
                                  .atomic_cap = IBV_ATOMIC_HCA,
                                  .phys_port_cnt = 1,
                                  .max_pkeys = 1};
  return 0;
}

int ibv_query_port(struct ibv_context* context, uint8_t port,
                   struct _compat_ibv_port_attr* compatible) {
  (void)context;
  if (port != 1) {
    errno = EINVAL;
    return EINVAL;
  }
  struct ibv_port_attr* out = (struct ibv_port_attr*)compatible;
  const char* longest = getenv("KVX_FAKE_VERBS_MAX_MESSAGE");
  out->state = IBV_PORT_ACTIVE;
  out->max_mtu = out->active_mtu = IBV_MTU_4096;
  out->gid_tbl_len = 1;
  out->max_msg_sz = longest ? (uint32_t)strtoul(longest, NULL, 0) : 1u << 30;
  out->pkey_tbl_len = 1;
  out->active_width = 2;
  out->active_speed = 32;
  out->phys_state = 5;
  out->link_layer = IBV_LINK_LAYER_ETHERNET;
  return 0;
}

// An IPv4-mapped address whose last three bytes are the process id.
static void make_gid(union ibv_gid* gid) {
  const pid_t process = getpid();
  memset(gid, 0, sizeof *gid);
  gid->raw[10] = gid->raw[11] = 0xff;
  gid->raw[12] = 10;
  gid->raw[13] = (uint8_t)(process >> 16);
  gid->raw[14] = (uint8_t)(process >> 8);
  gid->raw[15] = (uint8_t)process;
}

static pid_t process_of(const union ibv_gid* gid) {
  return gid->raw[13] << 16 | gid->raw[14] << 8 | gid->raw[15];
}

int ibv_query_gid(struct ibv_context* context, uint8_t port, int index, union ibv_gid* gid) {
  (void)context, (void)port;
  if (index != 0) return -1;
  make_gid(gid);
  return 0;
}

int _ibv_query_gid_ex(struct ibv_context* context, uint32_t port, uint32_t index,
                      struct ibv_gid_entry* entry, uint32_t flags, size_t size) {
  (void)context, (void)flags;
  if (index != 0) return ENODATA;
  memset(entry, 0, size);
  make_gid(&entry->gid);
  entry->port_num = port;
  entry->gid_type = IBV_GID_TYPE_ROCE_V2;
  return 0;
}

struct ibv_pd* ibv_alloc_pd(struct ibv_context* context) {
  struct ibv_pd* pd = calloc(1, sizeof *pd);
  pd->context = context;
  return pd;
}

int ibv_dealloc_pd(struct ibv_pd* pd) {
  free(pd);
  return 0;
}

struct ibv_comp_channel* ibv_create_comp_channel(struct ibv_context* context) {
  struct ibv_comp_channel* channel = calloc(1, sizeof *channel);
  channel->context = context;
  channel->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel* channel) {
  close(channel->fd);
  free(channel);
  return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel* channel, struct ibv_cq** cq, void** context) {
  (void)channel, (void)cq, (void)context;
  errno = EAGAIN;
  return -1;
}

void ibv_ack_cq_events(struct ibv_cq* cq, unsigned count) {
  (void)cq, (void)count;
}

struct ibv_cq* ibv_create_cq(struct ibv_context* context, int entries, void* cq_context,
                             struct ibv_comp_channel* channel, int vector) {
  (void)vector;
  struct completion_queue* cq = calloc(1, sizeof *cq);
  cq->base.context = context;
  cq->base.channel = channel;
  cq->base.cq_context = cq_context;
  cq->base.cqe = entries;
  cq->capacity = (unsigned)entries;
  cq->ring = calloc((size_t)entries, sizeof *cq->ring);
  pthread_mutex_init(&cq->lock, NULL);
  return &cq->base;
}

int ibv_destroy_cq(struct ibv_cq* base) {
  struct completion_queue* cq = (struct completion_queue*)base;
  free(cq->ring);
  free(cq);
  return 0;
}

struct ibv_srq* ibv_create_srq(struct ibv_pd* pd, struct ibv_srq_init_attr* attributes) {
  (void)pd, (void)attributes;
  errno = EOPNOTSUPP;
  return NULL;
}

int ibv_destroy_srq(struct ibv_srq* srq) {
  (void)srq;
  return 0;
}

struct ibv_qp* ibv_create_qp(struct ibv_pd* pd, struct ibv_qp_init_attr* attributes) {
  if (control->no_queue_pairs) {
    errno = ENOMEM;
    return NULL;
  }
  struct queue_pair* qp = calloc(1, sizeof *qp);
  qp->base.context = pd->context;
  qp->base.pd = pd;
  qp->base.send_cq = attributes->send_cq;
  qp->base.recv_cq = attributes->recv_cq;
  qp->base.qp_type = attributes->qp_type;
  qp->base.state = IBV_QPS_RESET;
  qp->signal_all = attributes->sq_sig_all;
  qp->peer_fd = -1;
  pthread_mutex_init(&qp->lock, NULL);
  pthread_mutex_lock(&lock);
  qp->base.qp_num = ++next_queue_pair;
  qp->next = queue_pairs;
  if (queue_pairs) queue_pairs->previous = qp;
  queue_pairs = qp;
  pthread_mutex_unlock(&lock);
  atomic_fetch_add(&control->queue_pairs, 1);
  return &qp->base;
}

int ibv_destroy_qp(struct ibv_qp* base) {
  struct queue_pair* qp = (struct queue_pair*)base;
  pthread_mutex_lock(&lock);
  if (qp->next) qp->next->previous = qp->previous;
  *(qp->previous ? &qp->previous->next : &queue_pairs) = qp->next;
  pthread_mutex_unlock(&lock);
  pthread_mutex_lock(&qp->lock);
  for (struct request* request; (request = take_held(qp));) free(request);
  pthread_mutex_unlock(&qp->lock);
  if (qp->peer_regions) munmap(qp->peer_regions, kRegions * sizeof(struct region));
  if (qp->peer_fd >= 0) close(qp->peer_fd);
  atomic_fetch_sub(&control->queue_pairs, 1);
  free(qp);
  return 0;
}

int ibv_modify_qp(struct ibv_qp* base, struct ibv_qp_attr* attributes, int mask) {
  struct queue_pair* qp = (struct queue_pair*)base;
  if (mask & IBV_QP_AV) {
    qp->peer = process_of(&attributes->ah_attr.grh.dgid);
    qp->peer_fd = (int)syscall(SYS_pidfd_open, qp->peer, 0);
    qp->peer_regions = map_peer_table(qp->peer);
    if (qp->peer_fd < 0 || !qp->peer_regions) return errno = EHOSTUNREACH;
  }
  if (mask & IBV_QP_STATE) qp->base.state = attributes->qp_state;
  return 0;
}

int ibv_get_async_event(struct ibv_context* context, struct ibv_async_event* event) {
  uint64_t count = 0;
  if (read(context->async_fd, &count, sizeof count) < 0) return -1;
  *event = (struct ibv_async_event){.event_type = IBV_EVENT_DEVICE_FATAL};
  return 0;
}

void ibv_ack_async_event(struct ibv_async_event* event) {
  (void)event;
}

const char* ibv_wc_status_str(enum ibv_wc_status status) {
  static const char* const texts[] = {"success",
                                      "local length error",
                                      "local QP operation error",
                                      "local EE context operation error",
                                      "local protection error",
                                      "Work Request Flushed Error",
                                      "memory management operation error",
                                      "bad response error",
                                      "local access error",
                                      "remote invalid request error",
                                      "remote access error",
                                      "remote operation error",
                                      "transport retry counter exceeded",
                                      "RNR retry counter exceeded",
                                      "local RDD violation error",
                                      "remote invalid RD request",
                                      "aborted error",
                                      "invalid EE context number",
                                      "invalid EE context state",
                                      "fatal error",
                                      "response timeout error",
                                      "general error"};
  return (unsigned)status < sizeof texts / sizeof *texts ? texts[status] : "unknown";
}
