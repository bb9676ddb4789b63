"""Writes schedule_values.inc: make_schedule_values.py OUT. Needs torch and transformers; the product and its tests do not."""
import sys
import torch, json, math
from transformers.optimization import get_scheduler
import transformers
cases=[]
def add(name,lr,w,t,kw):
    if name=="warmup_stable_decay":  # LLaMA-Factory's create_custom_scheduler fills in what is left out
        third=(t-w)//3
        kw_used={"num_stable_steps":third,"num_decay_steps":t-w-third,**kw}
    else:
        kw_used=dict(kw)
    opt=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))],lr=lr)
    s=get_scheduler(name,opt,num_warmup_steps=w,num_training_steps=t,scheduler_specific_kwargs=kw_used)
    out=[]
    for i in range(t):
        out.append(s.get_last_lr()[0]); opt.step(); s.step()
    cases.append((name,lr,w,t,kw,out))
for w,t in ((0,7),(3,11)):
    add("linear",1e-3,w,t,{})
    add("cosine",3e-4,w,t,{})
    add("cosine_with_restarts",1e-3,w,t,{"num_cycles":3})
    add("polynomial",1e-3,w,t,{"lr_end":1e-5,"power":2.0})
    add("inverse_sqrt",1e-3,w,t,{})
    add("cosine_with_min_lr",1e-3,w,t,{"min_lr_rate":0.1})
    add("cosine_warmup_with_min_lr",1e-3,w,t,{"min_lr_rate":0.1})
    add("warmup_stable_decay",1e-3,w,t,{"num_decay_steps":3})
    add("warmup_stable_decay",1e-3,w,t,{})
    add("constant_with_warmup",1e-3,w,t,{})
add("constant",5e-5,2,4,{})
add("cosine",1e-3,2,9,{"num_cycles":1.5})
add("polynomial",1e-3,2,9,{})
add("inverse_sqrt",1e-3,2,9,{"timescale":5})
add("cosine_with_min_lr",2e-4,2,9,{"min_lr":2e-5,"num_cycles":0.5})
add("cosine_warmup_with_min_lr",1e-3,4,9,{"min_lr":1e-5,"warmup_lr_rate":0.2})
for wt,dt in (("cosine","linear"),("1-sqrt","1-sqrt"),("linear","cosine")):
    add("warmup_stable_decay",1e-3,3,12,{"num_decay_steps":4,"num_stable_steps":4,"warmup_type":wt,"decay_type":dt,"min_lr_ratio":0.05})
def f(x): return repr(float(x))
with open(sys.argv[1],'w') as o:
    o.write("// Learning rates of every step by transformers %s (get_scheduler), made by tests/optim/make_schedule_values.py: type, learning rate, warm-up, total,\n// arguments, rates.\n" % transformers.__version__)
    for name,lr,w,t,kw,out in cases:
        kws="{"+", ".join('{"%s", "%s"}'%(k,v) for k,v in kw.items())+"}"
        lines=[]; cur="     {"
        for i,x in enumerate(out):
            item=f(x)+(", " if i+1<len(out) else "}},")
            if len(cur)+len(item)>148: lines.append(cur.rstrip()); cur="      "
            cur+=item
        lines.append(cur)
        o.write('{"%s", %s, %d, %d, %s,\n%s\n'%(name,f(lr),w,t,kws,"\n".join(lines)))
